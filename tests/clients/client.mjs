// Node's two HTTP clients behind the proxy: `client.mjs node-fetch|node-https ORIGIN SECONDS`.
//
// From 22.21 and 24 on, NODE_USE_ENV_PROXY=1 makes fetch read http_proxy and https_proxy. In earlier
// versions, users set undici's agent for the same variables. Both send CONNECT for http URLs too, so plain
// HTTP runs inside the tunnel. The modules http and https get the agents that most users choose;
// for http URLs these send the whole URL to the proxy. PACKAGES is the directory where they are
// installed. The CA comes from NODE_EXTRA_CA_CERTS.
//
// Prints `NAME SCHEME REQUESTS FAILURES` for each scheme, and failures on standard error.

import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const REQUEST_TIMEOUT = 20_000; // milliseconds for one request
const PAUSE = 20; // milliseconds between rounds: a busy application, not a load test

const [name, origin, seconds] = process.argv.slice(2);
const installed = createRequire(join(process.env.PACKAGES, "package.json"));

function fetchSender() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < 22 || (major === 22 && minor < 21)) {
    const { EnvHttpProxyAgent, setGlobalDispatcher } = installed("undici");
    setGlobalDispatcher(new EnvHttpProxyAgent());
  }
  return async (url, options) => {
    const answer = await fetch(url, { ...options, signal: AbortSignal.timeout(REQUEST_TIMEOUT) });
    return { status: answer.status, text: await answer.text() };
  };
}

function httpsSender() {
  const { HttpProxyAgent } = installed("http-proxy-agent");
  const { HttpsProxyAgent } = installed("https-proxy-agent");
  const modules = {
    "http:": { http, agent: new HttpProxyAgent(process.env.http_proxy, { keepAlive: true }) },
    "https:": {
      http: https,
      agent: new HttpsProxyAgent(process.env.https_proxy, { keepAlive: true }),
    },
  };
  return async (url, { method, headers, body } = {}) => {
    const { http, agent } = modules[new URL(url).protocol];
    const answer = await new Promise((resolve, reject) => {
      const signal = AbortSignal.timeout(REQUEST_TIMEOUT);
      const request = http.request(url, { agent, method, headers, signal }, resolve);
      request.on("error", reject);
      request.end(body);
    });
    let text = "";
    for await (const chunk of answer.setEncoding("utf8")) text += chunk;
    return { status: answer.statusCode, text };
  };
}

const send = { "node-fetch": fetchSender, "node-https": httpsSender }[name]();

// The API describes the request it saw: it must be ours, with a token.
async function get(base, number) {
  const target = `/hello?n=${number}`;
  const { status, text } = await send(base + target);
  if (status !== 200) return `GET ${target}: ${status} ${text}`;
  const seen = JSON.parse(text);
  if (seen.target !== target || seen.authorization !== true) {
    return `GET ${target}: the API saw ${text}`;
  }
}

// The API sends the body back.
async function post(base, number) {
  const body = JSON.stringify({ client: name, number });
  const headers = { "content-type": "application/json" };
  const { status, text } = await send(`${base}/echo`, { method: "POST", headers, body });
  if (status !== 200 || text !== body) return `POST /echo: ${status} ${text}`;
}

async function attempt(check, base, number) {
  try {
    return await check(base, number);
  } catch (error) {
    return `${check.name}: ${error} ${error.cause ?? ""}`;
  }
}

const requests = { http: 0, https: 0 };
const failures = { http: 0, https: 0 };
const end = performance.now() + Number(seconds) * 1000;
for (let number = 1; performance.now() < end; number += 1) {
  for (const scheme of Object.keys(requests)) {
    for (const check of [get, post]) {
      const complaint = await attempt(check, `${scheme}://${origin}`, number);
      requests[scheme] += 1;
      if (complaint) {
        failures[scheme] += 1;
        console.error(`${scheme} ${complaint}`);
      }
    }
  }
  await pause(PAUSE);
}
for (const scheme of Object.keys(requests)) {
  console.log(`${name} ${scheme} ${requests[scheme]} ${failures[scheme]}`);
}
process.exit(0); // kept connections would hold the process
