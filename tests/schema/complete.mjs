// Asks Taplo's language server, as VS Code does, to complete the last line of a text.
//
// node complete.mjs SCHEMA TEXT EXPECTED: exit code 0 if EXPECTED is among the completions.

import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

import language from "@taplo/lsp";

const [schema, text, expected] = process.argv.slice(2);
const root = pathToFileURL(process.cwd()).href;
const uri = `${root}/proxy.toml`;
const associations = { ".*": pathToFileURL(schema).href };
const settings = { schema: { enabled: true, associations, catalogs: [] } };

const toPath = (url) => (url.startsWith("file:") ? fileURLToPath(url) : undefined);
const environment = {
    now: () => new Date(),
    envVar: (name) => process.env[name],
    envVars: () => Object.entries(process.env),
    stdErrAtty: () => false,
    stdin: async () => new Uint8Array(),
    stdout: async (bytes) => bytes.length,
    stderr: async (bytes) => bytes.length,
    glob: () => [],
    readFile: async (file) => new Uint8Array(readFileSync(file)),
    writeFile: async () => {},
    urlToFilePath: toPath,
    isAbsolute: path.isAbsolute,
    cwd: () => process.cwd(),
    findConfigFile: () => undefined,
};

const waiting = new Map();
const server = await language.TaploLsp.initialize(environment, {
    onMessage(message) {
        if (message.method && message.id !== undefined) {
            const result = (message.params?.items ?? [{}]).map(() => settings);
            server.send({ jsonrpc: "2.0", id: message.id, result });
        } else if (waiting.has(message.id)) {
            waiting.get(message.id)(message.result);
            waiting.delete(message.id);
        }
    },
});
let last = 0;
const request = (method, params) =>
    new Promise((resolve) => {
        waiting.set(++last, resolve);
        server.send({ jsonrpc: "2.0", id: last, method, params });
    });
const notify = (method, params) => server.send({ jsonrpc: "2.0", method, params });

await request("initialize", {
    processId: null,
    rootUri: root,
    workspaceFolders: [{ uri: root, name: "test" }],
    capabilities: { workspace: { configuration: true } },
});
notify("initialized", {});
notify("textDocument/didOpen", { textDocument: { uri, languageId: "toml", version: 1, text } });
const lines = text.trimEnd().split("\n");
const position = { line: lines.length - 1, character: lines.at(-1).length };
let labels = [];
// The first answers come before the server has loaded the schema.
for (let attempt = 0; attempt < 100 && labels.length === 0; attempt++) {
    const found = await request("textDocument/completion", { textDocument: { uri }, position });
    labels = (found?.items ?? found ?? []).map((item) => item.label);
}
console.log(labels.join(" "));
process.exit(labels.includes(expected) ? 0 : 1);
