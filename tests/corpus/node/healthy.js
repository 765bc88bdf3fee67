'use strict';
// Programs that only look as if they leaked, one for each name.
//
// usage: healthy.js NAME   (ports in CORPUS, as server.py prints them)
const http = require('node:http');
const net = require('node:net');

const at = JSON.parse(process.env.CORPUS);
const base = `http://127.0.0.1:${at.http}`;

function pace(step, ms = 700) {
  console.log('ready');
  let n = 0;
  setInterval(() => step(n++), ms);
}

const shared = new http.Agent({ keepAlive: true, maxSockets: 10 });

function pool() {
  pace((n) => {
    for (let k = 0; k < 10; k += 1) {
      http.get(`${base}/small/items/${n}-${k}`, { agent: shared }, (response) => response.resume());
    }
  }, 500);
}

function fetches() {
  pace(async (n) => {
    const response = await fetch(`${base}/small/prices/${n}`);
    await response.text();
  }, 300);
}

function quietSockets() {
  for (let n = 0; n < 8; n += 1) {
    const request = http.get(`${base}/ws/${n}`, {
      agent: false,
      headers: {
        Connection: 'Upgrade', Upgrade: 'websocket',
        'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==', 'Sec-WebSocket-Version': '13',
      },
    });
    request.on('upgrade', (response, socket) => socket.on('data', () => {}));
  }
  pace(() => {}, 5000);
}

function replaced() {
  const rooms = [];
  const open = (n) => {
    const socket = net.connect(at.lines, '127.0.0.1');
    socket.write(`subscribe ${n}\n`);
    socket.on('data', () => {});
    rooms.push(socket);
  };
  for (let n = 0; n < 12; n += 1) open(n);
  pace((n) => {
    open(12 + n);
    rooms.shift().end();
  }, 3000);
}

function server() {
  const shop = http.createServer((request, response) => response.end('ok'));
  shop.keepAliveTimeout = 60_000;
  shop.listen(0, '127.0.0.1', () => console.log('ready', shop.address().port));
}

function slow() {
  pace((n) => http.get(`${base}/slow/${n}`, (response) => response.resume()));
}

const programs = {
  pool, fetches, 'quiet-sockets': quietSockets, replaced, server, slow,
};
programs[process.argv[2]]();
