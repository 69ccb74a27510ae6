// Serves the certified oidc-provider as authorization server and API, over https on a free port:
// `server.mjs [--dpop] --lifetime SECONDS --files DIR --out DIR`.
//
// Everything about tokens is oidc-provider's own code: the token endpoint with rotation and reuse
// detection, userinfo, introspection. Only the grant is created here, instead of by a person who signs in.
// The API is
//
//     GET  /hello    the provider's userinfo endpoint; its claims describe the request
//     POST /echo     sends the body back    } tokens are checked as a resource server does it:
//     GET  /files/…  static files           } by asking the provider's introspection endpoint
//
// With --dpop the client's tokens are bound to a key (RFC 9449): the provider and the API accept no
// request without a proof, and no proof without a nonce.
//
// DIR has ca.pem, cert.pem and key.pem; servers.json is written there. NODE_EXTRA_CA_CERTS names
// ca.pem, for requests to the introspection endpoint, and PACKAGES the directory with the installed
// oidc-provider. On control_url, GET /stats returns the counts, POST /revoke revokes all valid access
// tokens, and GET /tokens lists every token that was issued. Exits when its standard input closes.

import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { dirname, join, normalize } from "node:path";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";

const option = { type: "string" };
const { dpop, lifetime, files, out } = parseArgs({
  options: { dpop: { type: "boolean", default: false }, lifetime: option, files: option, out: option },
}).values;

const installed = createRequire(join(process.env.PACKAGES, "package.json"));
const main = installed.resolve("oidc-provider");
const { Provider } = await import(pathToFileURL(main));
const { EmbeddedJWK, calculateJwkThumbprint, jwtVerify } = createRequire(main)("jose");
// The provider has no public way to its nonces, and the API has to want the same: they are one server.
const { default: Nonces } = await import(pathToFileURL(join(dirname(main), "helpers/dpop_nonces.js")));

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
  rejected: 0, // API requests answered 401, but for those that only lacked a nonce
  nonces_of_provider: 0, // token requests that lacked one
  nonces_of_api: 0, // API requests that lacked one
  bearer: 0, // API requests with a Bearer token
  server_errors: 0,
};
const nonceSecret = randomBytes(32);
const nonces = new Nonces(nonceSecret);
const proofs = new Set(); // that the API has seen
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
        dpop_bound_access_tokens: dpop,
      },
      {
        client_id: api.id,
        client_secret: api.secret,
        grant_types: [],
        redirect_uris: [],
        response_types: [],
      },
    ],
    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: dpop, nonceSecret, requireNonce: () => true },
      introspection: { enabled: true },
    },
    routes: { token: tokenPath, introspection: introspectionPath, userinfo: "/hello" },
    rotateRefreshToken: true,
    ttl: { AccessToken: Number(lifetime), RefreshToken: DAY, Grant: DAY, IdToken: DAY },
    claims: { openid: ["sub", "authorization", "target"] },
    findAccount: (context, sub) => ({
      accountId: sub,
      claims: () => ({
        sub,
        authorization: dpop
          ? /^DPoP ./.test(context.get("authorization"))
          : /^Bearer ./.test(context.get("authorization")),
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
    if (error.message === "use_dpop_nonce") {
      stats.nonces_of_provider += 1;
      return;
    }
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

async function introspect(issuer, token) {
  const answer = await fetch(issuer + introspectionPath, {
    method: "POST",
    headers: { authorization: `Basic ${btoa(`${api.id}:${api.secret}`)}` },
    body: new URLSearchParams({ token }),
  });
  if (!answer.ok) throw new Error(`introspection: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

// Why a request is refused, as a challenge (RFC 6750 §3, RFC 9449 §7.1), or nothing.
async function complaint(issuer, path, request) {
  const scheme = dpop ? "DPoP" : "Bearer";
  const [given, token] = (request.headers.authorization ?? "").split(" ");
  const { active, cnf } = given === scheme && token ? await introspect(issuer, token) : {};
  if (!dpop) return active ? undefined : 'Bearer error="invalid_token"';
  try {
    const options = { algorithms: ["ES256"], typ: "dpop+jwt", maxTokenAge: 60 };
    const proof = await jwtVerify(request.headers.dpop ?? "", EmbeddedJWK, options);
    const { htm, htu, ath, jti, nonce } = proof.payload;
    const hash = createHash("sha256").update(token).digest("base64url");
    if (htm !== request.method || htu !== issuer + path || ath !== hash) throw new Error("mismatch");
    if (!jti || proofs.has(jti)) throw new Error("replay");
    proofs.add(jti);
    if (!nonce || !nonces.checkNonce(nonce)) return 'DPoP error="use_dpop_nonce"';
    const thumbprint = await calculateJwkThumbprint(proof.protectedHeader.jwk);
    return active && cnf?.jkt === thumbprint ? undefined : 'DPoP error="invalid_token"';
  } catch (error) {
    console.error("proof refused:", error.message);
    return 'DPoP error="invalid_dpop_proof"';
  }
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
  const challenge = await complaint(issuer, path, request);
  if (dpop) response.setHeader("dpop-nonce", nonces.nextNonce());
  if (challenge) {
    response.writeHead(401, { "www-authenticate": challenge }).end();
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
      if (/^Bearer /i.test(request.headers.authorization ?? "")) stats.bearer += 1;
      response.on("finish", () => {
        if (response.statusCode === 200) stats.accepted += 1;
        if (response.statusCode !== 401) return;
        const lacksNonce = /use_dpop_nonce/.test(response.getHeader("www-authenticate"));
        stats[lacksNonce ? "nonces_of_api" : "rejected"] += 1;
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
  return { revoked: live.length };
}

function control(provider) {
  return async (request, response) => {
    switch (`${request.method} ${request.url}`) {
      case "GET /stats":
        return response.end(JSON.stringify(stats));
      case "POST /revoke":
        return response.end(JSON.stringify(await revoke(provider)));
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
