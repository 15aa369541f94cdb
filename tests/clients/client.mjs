// Node's fetch (it sends sec-fetch-mode) and http: each prints the body it got, a line each, as JSON.
import http from 'node:http';

const url = process.argv[2];
const show = async (response) => console.log(JSON.stringify(await response.json()));

await show(await fetch(`${url}/node?get`));
await show(await fetch(`${url}/node?post`, { method: 'POST', body: 'from fetch', headers: { 'content-type': 'text/plain' } }));
const stream = new ReadableStream({
  start(controller) {
    for (const part of ['in ', 'chunks']) controller.enqueue(new TextEncoder().encode(part));
    controller.close();
  },
});
await show(await fetch(`${url}/node?stream`, { method: 'POST', body: stream, duplex: 'half' }));

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
for (const n of [1, 2]) {
  await new Promise((done) => http.get(`${url}/node?agent-${n}`, { agent }, (response) => {
    let text = '';
    response.on('data', (part) => { text += part; }).on('end', () => { console.log(JSON.stringify(JSON.parse(text))); done(); });
  }));
}
agent.destroy();
