'use strict';
// Programs whose client asks after it has waited for something itself, so that the function that asked
// is not on the stack; where it leaks, the line carries a comment with the name.
//
// usage: awaited.js NAME   (ports in CORPUS, as server.py prints them)
const http = require('node:http');
const courier = require('courier');

const at = JSON.parse(process.env.CORPUS);
const base = `http://127.0.0.1:${at.http}`;
const kept = [];

function pace(step, ms = 700) {
  console.log('ready');
  let n = 0;
  setInterval(() => step(n++), ms);
}

const shared = new http.Agent({ keepAlive: true });

function read(response) {
  return new Promise((resolve) => response.resume().on('end', resolve));
}

async function quote(n) {
  const agent = new http.Agent({ keepAlive: true });
  kept.push(agent);
  const response = await courier.ask(`${base}/small/quotes/${n}`, { agent }); // LEAK awaited
  await read(response);
}

async function post(n) {
  const body = JSON.stringify({ n });
  kept.push(await fetch(`${base}/big/posts/${n}`, { method: 'POST', body })); // LEAK posted
}

async function count(n) {
  const answer = await fetch(`${base}/small/counts/${n}?of=posts`, { method: 'POST', body: '{}' });
  await answer.text();
}

// it asks the same as `quote` through the same functions of the library, and closes
async function quoteOnce(n) {
  await read(await courier.ask(`${base}/small/quotes/${n}`, { agent: false }));
}

async function lookUp(n) {
  const response = await courier.chained(`${base}/big/parts/${n}`, { agent: shared }); // LEAK awaited-chain
  kept.push(response);
}

async function search(n) {
  const agent = new http.Agent({ keepAlive: true });
  kept.push(agent);
  const response = await courier.query(`${base}/small/hits/${n}`, { agent }); // LEAK awaited-thenable
  await read(response);
}

const busy = new http.Agent({ keepAlive: true });

async function warmUp(n) {
  await read(await courier.ask(`${base}/small/warm/${n}`, { agent: busy }));
}

async function openAlbum(n) {
  kept.push(await courier.ask(`${base}/big/albums/${n}`, { agent: busy })); // LEAK awaited-pooled
}

function collect(n) {
  const agent = new http.Agent({ keepAlive: true });
  kept.push(agent);
  return courier.ask(`${base}/small/lots/${n}`, { agent }) // LEAK awaited-then
    .then((response) => { response.resume(); kept.push(n); }); // END awaited-then
}

async function inAll(n) {
  const all = [0, 1].map((k) => {
    const agent = new http.Agent({ keepAlive: true });
    kept.push(agent);
    return courier.ask(`${base}/small/bids/${n}/${k}`, { agent });
  });
  for (const response of await Promise.all(all)) response.resume(); // LEAK awaited-all
}

const programs = {
  awaited: () => pace((n) => { quote(n); quoteOnce(n); }),
  'awaited-chain': () => pace(lookUp),
  'awaited-thenable': () => pace(search),
  'awaited-pooled': () => pace(async (n) => { await warmUp(n); await openAlbum(n); }),
  'awaited-then': () => pace(collect),
  'awaited-all': () => pace(inAll),
  // nobody waits for what undici does with the body, and two places use it
  posted: () => pace((n) => {
    post(n);
    count(n);
  }),
  'awaited-shared': () => pace(async (n) => {
    await read(await courier.ask(`${base}/small/quotes/${n}`, { agent: shared }));
    await read(await courier.chained(`${base}/small/parts/${n}`, { agent: shared }));
    await read(await courier.query(`${base}/small/hits/${n}`, { agent: shared }));
    quoteOnce(n);
  }, 300),
};
programs[process.argv[2]]();
