'use strict';
// More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
//
// usage: more.js NAME   (ports in CORPUS, as server.py prints them)
const http = require('node:http');
const net = require('node:net');
const tls = require('node:tls');

const at = JSON.parse(process.env.CORPUS);
const base = `http://127.0.0.1:${at.http}`;
const kept = [];

function pace(step, ms = 700) {
  console.log('ready');
  let n = 0;
  setInterval(() => step(n++), ms);
}

function greetBroker(n) {
  const socket = tls.connect({ // LEAK tls-hoard
    port: at.https, host: '127.0.0.1', servername: 'shop.test', rejectUnauthorized: false,
  }, () => socket.write(`GET /small/greet/${n} HTTP/1.1\r\nHost: shop.test\r\n\r\n`)); // END tls-hoard
  socket.on('data', () => {});
  kept.push(socket);
}

function askSlowly(n) {
  const request = http.get(`${base}/never/${n}`, { agent: false, timeout: 1000 }); // LEAK given-up
  request.on('timeout', () => kept.push(request));
}

function resubscribe(n) {
  const socket = net.connect(at.lines, '127.0.0.1'); // LEAK resubscribe
  socket.write(`subscribe ${n}\n`); // END resubscribe
  socket.on('data', () => {});
  kept.push(socket);
}

// Each try that takes long makes another one, and nobody ends the first.
function enter(room, tries) {
  const socket = net.createConnection(at.lines, '127.0.0.1'); // LEAK impatient
  kept.push(socket);
  socket.setTimeout(300);
  socket.on('connect', () => socket.write(`enter ${room}\n`));
  socket.on('timeout', () => {
    if (tries < 3) enter(room, tries + 1);
  });
}

const shared = new http.Agent({ keepAlive: true });

function warming() {
  pace((n) => {
    for (let k = 0; k < Math.min(12, 1 + Math.floor(n / 4)); k += 1) {
      http.get(`${base}/small/warm/${n}/${k}`, { agent: shared }, (response) => response.resume());
    }
  }, 500);
}

function feeds() {
  const open = (n) => http.get(`${base}/events/${n}`, { agent: false }, (response) => response.on('data', () => {}));
  const running = [0, 1, 2, 3, 4].map(open);
  pace((n) => {
    running.push(open(5 + n));
    running.shift().destroy();
  }, 2500);
}

const programs = {
  'tls-hoard': () => pace(greetBroker),
  'given-up': () => pace(askSlowly),
  resubscribe: () => pace(resubscribe),
  impatient: () => pace((n) => enter(n, 0), 2000),
  warming,
  feeds,
};
programs[process.argv[2]]();
