// Node's fetch behind the proxy: `client.mjs ORIGIN SECONDS`.
//
// From 22.21 and 24 on, NODE_USE_ENV_PROXY=1 makes fetch read http_proxy and https_proxy. Before,
// users give it undici's agent for the same variables; UNDICI is then the directory that has the
// package installed. Both send CONNECT for http URLs too, so plain HTTP runs inside the tunnel. The
// CA comes from NODE_EXTRA_CA_CERTS.
//
// Prints `node SCHEME REQUESTS FAILURES` for each scheme; says on standard error what failed.

import { createRequire } from "node:module";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

const PATIENCE = 20_000; // milliseconds for one request
const PAUSE = 20; // milliseconds between rounds: a busy application, not a load test

const [origin, seconds] = process.argv.slice(2);

if (process.env.UNDICI) {
  const { EnvHttpProxyAgent, setGlobalDispatcher } =
    createRequire(join(process.env.UNDICI, "package.json"))("undici");
  setGlobalDispatcher(new EnvHttpProxyAgent());
}

// The API describes the request it saw: it must be ours, with a token.
async function get(base, number) {
  const target = `/hello?n=${number}`;
  const answer = await fetch(base + target, { signal: AbortSignal.timeout(PATIENCE) });
  const text = await answer.text();
  if (answer.status !== 200) return `GET ${target}: ${answer.status} ${text}`;
  const seen = JSON.parse(text);
  if (seen.target !== target || seen.authorization !== true) {
    return `GET ${target}: the API saw ${text}`;
  }
}

// The API sends the body back.
async function post(base, number) {
  const body = JSON.stringify({ client: "node", number });
  const answer = await fetch(`${base}/echo`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
    signal: AbortSignal.timeout(PATIENCE),
  });
  const text = await answer.text();
  if (answer.status !== 200 || text !== body) return `POST /echo: ${answer.status} ${text}`;
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
  console.log(`node ${scheme} ${requests[scheme]} ${failures[scheme]}`);
}
process.exit(0); // kept connections would hold the process
