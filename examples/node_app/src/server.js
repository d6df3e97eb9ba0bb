'use strict';
// Answers GET /basket/N with words about N apples.

const http = require('node:http');
const plural = require('plural');

const server = http.createServer((request, response) => {
  const found = /^\/basket\/(\d+)$/.exec(request.url);
  response.statusCode = found ? 200 : 404;
  response.setHeader('Content-Type', 'text/plain; charset=utf-8');
  response.end(found ? `${plural(Number(found[1]), 'apple')} in the basket\n` : 'no such thing\n');
});

server.listen(Number(process.env.PORT));
process.on('SIGTERM', () => server.close());
