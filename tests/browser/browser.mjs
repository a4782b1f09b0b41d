// Chromium with a fake microphone that plays a WAV, and the page of this folder served on loopback.
import { createServer } from 'node:http';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));

/** Serves speaker.html and the official client's bundle (`bundle`: path of kvs-webrtc.min.js). */
export async function serve(bundle) {
  const files = { '/': [join(here, 'speaker.html'), 'text/html'], '/kvs-webrtc.min.js': [bundle, 'text/javascript'] };
  const server = createServer((request, response) => {
    const [file, type] = files[request.url.split('?')[0]] ?? [];
    if (!file) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': type }).end(readFileSync(file));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, close: () => server.close() };
}

/** One Chromium of its own profile; `kill()` is SIGKILL to all of it. */
export async function browser(wav, { loop = true, extra = [] } = {}) {
  const launched = await chromium.launchServer({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', `--disk-cache-dir=${mkdtempSync(join(tmpdir(), 'speaker-'))}`,
      '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
      `--use-file-for-fake-audio-capture=${wav}${loop ? '' : '%noloop'}`, ...extra,
    ],
  });
  const remote = await chromium.connect(launched.wsEndpoint());
  const context = await remote.newContext({ permissions: ['microphone'], ignoreHTTPSErrors: true });
  return { page: await context.newPage(), version: remote.version(), kill: () => launched.kill(), close: () => launched.close() };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits for `look` to give something. */
export async function until(what, look, ms = 30_000) {
  const end = Date.now() + ms;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await sleep(50);
  }
}
