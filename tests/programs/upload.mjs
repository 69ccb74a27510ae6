// Uploads a file through a proxy and prints the status: upload.mjs URL FILE PROXY_PORT
import { readFileSync } from 'node:fs';
import http from 'node:http';

const [url, file, port] = process.argv.slice(2);
const options = { host: '127.0.0.1', port, path: url, method: 'POST', headers: { host: new URL(url).host } };
const request = http.request(options, response => {
    response.resume();
    response.on('end', () => { console.log(response.statusCode); process.exit(); });
});
request.on('error', error => { console.log(error.code); process.exit(1); });
request.end(readFileSync(file));
