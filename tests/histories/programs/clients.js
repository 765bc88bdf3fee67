// Clients that are recorded for an hour: they sleep nearly all the time.
//
// usage: clients.js WHAT HTTP_PORT LINES_PORT
'use strict';
const http = require('http');
const net = require('net');

const [what, httpPort, linesPort] = [process.argv[2], +process.argv[3], +process.argv[4]];
const kept = [];
const MINUTE = 60_000;

function fetch(agent, path) {
  http.get({ host: '127.0.0.1', port: httpPort, path, agent }, response => response.resume()).on('error', () => {});
}

function websocket() {
  const request = http.request({
    host: '127.0.0.1', port: httpPort, path: '/ws/room', agent: false,
    headers: { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': Buffer.alloc(16, 7).toString('base64') },
  });
  return new Promise(resolve => request.on('upgrade', (_, socket) => resolve(socket.resume())).end());
}

const programs = {
  // A client with a pool of its own every three minutes, and none is destroyed.
  agentEveryThreeMinutes() {
    const once = () => {
      const agent = new http.Agent({ keepAlive: true });
      kept.push(agent);
      fetch(agent, '/small/orders');
    };
    once();
    setInterval(once, 3 * MINUTE);
  },

  // A pool that has at most six, used every two minutes by six at a time.
  idlePool() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 6, maxFreeSockets: 6 });
    const all = () => { for (let i = 0; i < 6; i++) fetch(agent, '/small/stock'); };
    all();
    setInterval(all, 2 * MINUTE);
  },

  // Nine rooms; each is left after twelve minutes, and another entered.
  async roomsComeAndGo() {
    const rooms = [];
    for (let i = 0; i < 9; i++) rooms.push(await websocket());
    let turn = 0;
    setInterval(async () => {
      const at = turn++ % rooms.length;
      rooms[at].destroy();
      rooms[at] = await websocket();
    }, 80_000);
    setInterval(() => rooms.forEach(room => room.write(Buffer.from([0x89, 0x80, 1, 2, 3, 4]))), MINUTE);
  },

  // Two sockets more every ten minutes, which greet and are forgotten.
  twoEveryTenMinutes() {
    const once = () => {
      for (let i = 0; i < 2; i++) {
        const socket = net.connect(linesPort, '127.0.0.1', () => socket.write('hello\n'));
        socket.resume();
        kept.push(socket);
      }
    };
    once();
    setInterval(once, 10 * MINUTE);
  },
};

programs[what]();
