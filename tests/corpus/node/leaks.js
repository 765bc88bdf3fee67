'use strict';
// Programs that leak connections, one for each name; the line at fault carries a comment with the name.
//
// usage: leaks.js NAME   (ports in CORPUS, as server.py prints them)
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');

const at = JSON.parse(process.env.CORPUS);
const base = `http://127.0.0.1:${at.http}`;
const kept = [];

function pace(step, ms = 700) {
  console.log('ready');
  let n = 0;
  setInterval(() => step(n++), ms);
}

const shared = new http.Agent({ keepAlive: true });

function previewCard(card) {
  const agent = new http.Agent({ keepAlive: true });
  const request = http.get({ // LEAK agent-per-call
    host: '127.0.0.1', port: at.http, agent, path: `/small/cards/${card}`,
    headers: { host: 'cards.test' },
  }); // END agent-per-call
  request.on('response', (response) => response.resume());
  kept.push(agent);
}

function payInvoice(invoice) {
  const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false });
  const request = https.request({ // LEAK https-agent
    host: '127.0.0.1', port: at.https, agent, servername: 'shop.test', method: 'POST',
    path: `/small/invoices/${invoice}`, headers: { host: 'shop.test', 'content-length': 2 },
  }); // END https-agent
  request.on('response', (response) => response.resume());
  request.end('{}');
  kept.push(agent);
}

class Importer {
  load(row) {
    http.get(`${base}/big/rows/${row}`, { agent: shared }, (response) => { // LEAK unread
      kept.push(response.statusCode);
    }); // END unread
  }
}

function measure(n) {
  const socket = net.connect(at.lines, '127.0.0.1'); // LEAK raw
  socket.write(`measure ${n}\n`);
  socket.on('data', () => {});
  kept.push(socket); // END raw
}

const join = (room) => {
  const request = http.get(`${base}/ws/rooms/${room}`, { // LEAK rejoin
    agent: false,
    headers: {
      Connection: 'Upgrade', Upgrade: 'websocket',
      'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13',
    },
  }); // END rejoin
  request.on('upgrade', (response, socket) => kept.push(socket));
};

function tail(container) {
  http.get({ socketPath: at.unix, path: `/follow/${container}/logs` }, (response) => { // LEAK unix-stream
    response.on('data', (data) => kept.push(data.length));
  }); // END unix-stream
}

async function askPrice(item) {
  const response = await fetch(`${base}/big/prices/${item}`); // LEAK fetch-unread
  kept.push(response);
  return response.status;
}

async function priceAll(n) {
  await askPrice(n);
}

function lastWords(n) {
  const socket = net.connect({ port: at.http, host: '127.0.0.1', allowHalfOpen: true }); // LEAK close-wait
  socket.write('GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n');
  socket.on('data', () => {});
  kept.push(socket); // END close-wait
}

// Of the next four each step has one function open a connection, and another use it again and keep it.
const busy = { http: new http.Agent({ keepAlive: true }), https: new https.Agent({ keepAlive: true, rejectUnauthorized: false }) };

function warmUp(n) {
  http.get(`${base}/small/warm/${n}`, { agent: busy.http }, (response) => response.resume());
}

function openReport(n) {
  http.get(`${base}/big/reports/${n}`, { agent: busy.http }, (response) => kept.push(response)); // LEAK pooled
}

function warmUpSecret(n) {
  https.get({ host: '127.0.0.1', port: at.https, agent: busy.https, servername: 'shop.test', path: `/small/warm/${n}` },
    (response) => response.resume());
}

async function openInvoice(n) {
  const request = https.get({ // LEAK pooled-https
    host: '127.0.0.1', port: at.https, agent: busy.https, servername: 'shop.test', path: `/big/invoices/${n}`,
  }); // END pooled-https
  kept.push(await new Promise((resolve) => request.on('response', resolve)));
}

function warmUpLocal(n) {
  http.get({ socketPath: at.unix, path: `/small/warm/${n}`, agent: busy.http }, (response) => response.resume());
}

function openImage(n) {
  http.get({ socketPath: at.unix, path: `/big/images/${n}`, agent: busy.http }, // LEAK pooled-unix
    (response) => kept.push(response)); // END pooled-unix
}

function both(first, second) {
  pace((n) => {
    first(n);
    setTimeout(second, 350, n);
  });
}

// A connection that sends by itself once it is open.
class Feed {
  constructor(name) {
    const request = http.get(`${base}/ws/feeds/${name}`, { // LEAK heartbeat
      agent: false,
      headers: {
        Connection: 'Upgrade', Upgrade: 'websocket',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13',
      },
    }); // END heartbeat
    request.on('upgrade', (response, socket) => {
      this.socket = socket.resume();
      this.timer = setInterval(() => this.beat(), 1000);
    });
  }

  beat() {
    this.socket.write(Buffer.from([0x89, 0x80, 1, 2, 3, 4]));
  }
}

function server() {
  const shop = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')); // LEAK server
    kept.push(socket);
  });
  shop.listen(0, '127.0.0.1', () => console.log('ready', shop.address().port));
}

const programs = {
  'agent-per-call': () => pace(previewCard),
  'https-agent': () => pace(payInvoice),
  unread: () => { const importer = new Importer(); pace((n) => importer.load(n)); },
  raw: () => pace(measure),
  rejoin: () => pace(join),
  'unix-stream': () => pace(tail),
  'fetch-unread': () => pace(priceAll),
  'close-wait': () => pace(lastWords),
  pooled: () => both(warmUp, openReport),
  'pooled-https': () => both(warmUpSecret, openInvoice),
  'pooled-unix': () => both(warmUpLocal, openImage),
  heartbeat: () => pace((n) => kept.push(new Feed(n))),
  server,
};
programs[process.argv[2]]();
