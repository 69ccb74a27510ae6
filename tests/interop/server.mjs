// The certified oidc-provider as authorization server and API, over https on a free port:
// `server.mjs --lifetime SECONDS --files DIR --out DIR`.
//
// Everything about tokens is oidc-provider's own code: the token endpoint with rotation and reuse
// detection, userinfo, introspection. Only the grant is made here, in place of a person who signs in.
// The API is
//
//     GET  /hello    the provider's userinfo endpoint; its claims describe the request
//     POST /echo     sends the body back    } tokens are checked as a resource server does it:
//     GET  /files/…  static files           } by asking the provider's introspection endpoint
//
// DIR has ca.pem, cert.pem and key.pem; servers.json is written there. NODE_EXTRA_CA_CERTS names
// ca.pem, for the questions to the introspection endpoint, and PACKAGES the directory that has
// oidc-provider installed. On control_url, GET /stats tells the counts, POST /revoke revokes all
// live access tokens, and GET /tokens lists every token there ever was. Ends with its standard input.

import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { join, normalize } from "node:path";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";

const option = { type: "string" };
const { lifetime, files, out } = parseArgs({
  options: { lifetime: option, files: option, out: option },
}).values;

const installed = createRequire(join(process.env.PACKAGES, "package.json"));
const { Provider } = await import(pathToFileURL(installed.resolve("oidc-provider")));

const DAY = 86_400;
const ACCOUNT = "somebody";
const SCOPE = "openid offline_access";

const tokenPath = "/token";
const introspectionPath = "/token/introspection";

// bearerd, and the API when it asks the provider about a token.
const application = { id: "application", secret: randomBytes(24).toString("base64url") };
const api = { id: "api", secret: randomBytes(24).toString("base64url") };

const stats = {
  token_requests: 0, // that reached the endpoint's path, whatever came of them
  issued: 0, // access tokens
  consumed: 0, // refresh tokens that were used, so that a second use is reuse
  refused: 0, // token requests
  reuse: 0, // of refresh tokens, as the provider sees it
  grants_revoked: 0,
  accepted: 0, // API requests
  rejected: 0, // API requests answered 401
  server_errors: 0,
};
const accessTokens = [];
const tokens = []; // all of them, the oldest first

function listen(server) {
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(server.address().port)));
}

function createProvider(issuer) {
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: application.id,
        client_secret: application.secret,
        token_endpoint_auth_method: "client_secret_post",
        grant_types: ["authorization_code", "refresh_token"],
        redirect_uris: [`${issuer}/callback`],
      },
      {
        client_id: api.id,
        client_secret: api.secret,
        grant_types: [],
        redirect_uris: [],
        response_types: [],
      },
    ],
    features: { devInteractions: { enabled: false }, introspection: { enabled: true } },
    routes: { token: tokenPath, introspection: introspectionPath, userinfo: "/hello" },
    rotateRefreshToken: true,
    ttl: { AccessToken: Number(lifetime), RefreshToken: DAY, Grant: DAY, IdToken: DAY },
    claims: { openid: ["sub", "authorization", "target"] },
    findAccount: (context, sub) => ({
      accountId: sub,
      claims: () => ({
        sub,
        authorization: /^Bearer ./.test(context.get("authorization")),
        target: context.req.url,
      }),
    }),
  });
  provider.on("access_token.saved", (token) => {
    stats.issued += 1;
    accessTokens.push(token.jti);
    tokens.push(token.jti);
  });
  provider.on("refresh_token.saved", (token) => tokens.push(token.jti));
  provider.on("refresh_token.consumed", () => (stats.consumed += 1));
  provider.on("grant.revoked", () => (stats.grants_revoked += 1));
  provider.on("grant.error", (context, error) => {
    stats.refused += 1;
    if (error.error_detail === "refresh token already used") stats.reuse += 1;
    console.error("token request refused:", error.message, error.error_detail);
  });
  provider.on("server_error", (context, error) => {
    stats.server_errors += 1;
    console.error(error);
  });
  return provider;
}

// What is left after somebody has signed in and allowed the application everything.
async function signIn(provider) {
  const grant = new provider.Grant({ accountId: ACCOUNT, clientId: application.id });
  grant.addOIDCScope(SCOPE);
  const refreshToken = new provider.RefreshToken({
    accountId: ACCOUNT,
    client: await provider.Client.find(application.id),
    grantId: await grant.save(),
    gty: "authorization_code",
    authTime: Math.floor(Date.now() / 1000),
    scope: SCOPE,
  });
  return refreshToken.save();
}

// ---- the API ----------------------------------------------------------------------------------------

async function isActive(issuer, token) {
  const answer = await fetch(issuer + introspectionPath, {
    method: "POST",
    headers: { authorization: `Basic ${btoa(`${api.id}:${api.secret}`)}` },
    body: new URLSearchParams({ token }),
  });
  if (!answer.ok) throw new Error(`introspection: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).active;
}

async function echo(request, response) {
  const chunks = await request.toArray();
  response.setHeader("content-type", request.headers["content-type"] ?? "text/plain");
  response.end(Buffer.concat(chunks));
}

async function sendFile(path, response) {
  try {
    const content = await readFile(join(files, normalize(decodeURIComponent(path))));
    response.setHeader("content-type", "application/octet-stream");
    response.end(content);
  } catch {
    response.writeHead(404).end();
  }
}

async function answer(issuer, path, request, response) {
  const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1];
  if (!token || !(await isActive(issuer, token))) {
    response.writeHead(401, { "www-authenticate": 'Bearer error="invalid_token"' }).end();
  } else if (path === "/echo" && request.method === "POST") {
    await echo(request, response);
  } else if (path.startsWith("/files/") && request.method === "GET") {
    await sendFile(path.slice("/files".length), response);
  } else {
    response.writeHead(404).end();
  }
}

function serve(issuer, provider) {
  const ask = provider.callback();
  return (request, response) => {
    const { pathname } = new URL(request.url, issuer);
    if (pathname === tokenPath) stats.token_requests += 1;
    const isApi = pathname === "/hello" || pathname === "/echo" || pathname.startsWith("/files/");
    if (isApi) {
      response.on("finish", () => {
        if (response.statusCode === 200) stats.accepted += 1;
        if (response.statusCode === 401) stats.rejected += 1;
      });
    }
    if (!isApi || pathname === "/hello") return ask(request, response);
    return answer(issuer, pathname, request, response).catch((error) => {
      stats.server_errors += 1;
      console.error(error);
      response.writeHead(500).end();
    });
  };
}

// ---- control ----------------------------------------------------------------------------------------

async function revoke(provider) {
  const live = accessTokens.splice(0);
  for (const token of live) await (await provider.AccessToken.find(token))?.destroy();
}

function control(provider) {
  return async (request, response) => {
    switch (`${request.method} ${request.url}`) {
      case "GET /stats":
        return response.end(JSON.stringify(stats));
      case "POST /revoke":
        await revoke(provider);
        return response.end();
      case "GET /tokens":
        return response.end(tokens.map((token) => `${token}\n`).join(""));
      default:
        return response.writeHead(404).end();
    }
  };
}

const server = https.createServer({
  key: readFileSync(join(out, "key.pem")),
  cert: readFileSync(join(out, "cert.pem")),
});
// Longer than bearerd's limits.idle_timeout, as behind a load balancer. With Node's own 5 s a POST now
// and then meets a connection that is just being closed: it may not be sent twice, so it fails.
server.keepAliveTimeout = 75_000;
const authority = `localhost:${await listen(server)}`;
const issuer = `https://${authority}`;
const provider = createProvider(issuer);
server.on("request", serve(issuer, provider));
const controlPort = await listen(http.createServer(control(provider)));

const described = {
  https_authority: authority,
  token_url: issuer + tokenPath,
  client_id: application.id,
  client_secret: application.secret,
  refresh_token: await signIn(provider),
  control_url: `http://127.0.0.1:${controlPort}`,
};
writeFileSync(join(out, "servers.json"), JSON.stringify(described), { mode: 0o600 });
console.log("ready");
process.stdin.on("end", () => process.exit(0)).resume();
