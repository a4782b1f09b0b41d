// A real browser speaks into a running `babelcast local`, two real terminals listen. See README.md.
//   node run.mjs --babelcast PATH --bundle kvs-webrtc.min.js --wav FILE [--seconds 60]
// BABELCAST_URL and BABELCAST_TOKEN as `babelcast local` prints them.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { browser, serve, sleep, until } from './browser.mjs';

const { values: options } = parseArgs({ options: {
  babelcast: { type: 'string', default: '../../target/debug/babelcast' },
  bundle: { type: 'string' }, wav: { type: 'string' }, seconds: { type: 'string', default: '20' },
} });
const { BABELCAST_URL: url, BABELCAST_TOKEN: token } = process.env;
if (!url || !token || !options.bundle || !options.wav) throw new Error('see the first lines of this file');

const call = async (method, path, body) => {
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? undefined : answer.json();
};

/** `babelcast listen --json` as a process of its own. */
function listen(session, to) {
  const heard = [];
  const env = { ...process.env, BABELCAST_TOKEN: '' };
  const child = spawn(options.babelcast, ['listen', session, '--to', to, '--url', url, '--json'], { env });
  createInterface({ input: child.stdout }).on('line', (line) => heard.push({ at: Date.now(), ...JSON.parse(line) }));
  createInterface({ input: child.stderr }).on('line', (line) => heard.push({ at: Date.now(), type: 'stderr', line }));
  const of = (type, since = 0) => heard.filter((message) => message.type === type && message.at >= since);
  return { to, heard, of, end: () => child.kill('SIGINT'), code: new Promise((end) => child.on('exit', end)) };
}

const results = [];
const report = (what, value) => { results.push([what, value]); console.log(`${what}: ${value}`); };
const open = new Set();

/** A session, two listeners and a page; `steps` gets them all. */
async function scene(name, { tellStatus = true, iceDelayMs = 200, trickle = true, listenFirst = true }, steps) {
  console.log(`--- ${name}`);
  const { sessionId: session } = await call('POST', '/sessions', { sourceLanguage: 'en', title: name });
  const site = await serve(options.bundle);
  const speaker = async () => {
    // Chromium takes no relative path, and plays beeps instead of saying so.
    const chrome = await browser(resolve(options.wav));
    open.add(chrome);
    await chrome.page.goto(site.url);
    const given = { url, token, session, tellStatus, iceDelayMs, trickle };
    chrome.start = () => chrome.page.evaluate((given) => start(given), given);
    chrome.events = () => chrome.page.evaluate(() => events);
    await chrome.start();
    return chrome;
  };
  const chorus = () => ['es', 'en'].map((to) => listen(session, to));
  let listeners = listenFirst ? chorus() : [];
  if (listenFirst) {
    await Promise.all(listeners.map((l) => until(`${l.to} joined`, () => l.of('sessionJoined')[0])));
    await sleep(2_000);
  }
  const since = Date.now();
  const chrome = await speaker();
  if (!listenFirst) {
    await sleep(3_000);
    listeners = chorus();
  }
  const first = (type, after) => Promise.all(listeners.map((l) => until(`${type} in ${l.to}`, () => l.of(type, after)[0])));
  try {
    const captions = await first('transcription', since);
    report(`${name}: first caption after page start`, captions.map((c) => `${c.at - since} ms ${c.language}`).join(', '));
    await steps?.({ session, chrome, listeners, speaker, first, name });
  } catch (error) {
    console.log(JSON.stringify(await chrome.events().catch(() => 'browser gone')));
    throw error;
  } finally {
    for (const each of open) await each.kill();
    open.clear();
    await call('DELETE', `/sessions/${session}`);
    await Promise.all(listeners.map((l) => Promise.race([l.code, sleep(10_000)])));
    listeners.forEach((l) => {
      const ended = l.of('sessionEnded').length === 1;
      if (!ended) { report(`${name}: PROBLEM no sessionEnded in ${l.to}`, l.heard.at(-1)?.type); process.exitCode = 1; }
      l.end();
    });
    site.close();
  }
}

/** Partials never shrink what was stable, revisions grow, nothing follows a final, `seq` is contiguous. */
function audit(listener) {
  const wrong = [];
  const revisions = new Map();
  const finals = new Set();
  let seq, epoch;
  for (const m of listener.heard) {
    if (m.seq !== undefined && m.type !== 'sessionJoined') {
      if (epoch === m.epoch && seq !== undefined && m.seq > seq + 1) wrong.push(`seq ${seq} -> ${m.seq}`);
      seq = m.seq;
    }
    if (m.type !== 'transcription') continue;
    if (finals.has(m.segmentId)) wrong.push(`after the final of ${m.segmentId}`);
    if ((revisions.get(m.segmentId) ?? -1) >= m.revision) wrong.push(`revision of ${m.segmentId} did not grow`);
    revisions.set(m.segmentId, m.revision);
    if (m.isFinal) finals.add(m.segmentId);
    if (m.endMs < m.startMs) wrong.push(`${m.segmentId} ends before it starts`);
  }
  return { finals: finals.size, wrong };
}

await scene('browser', {}, async ({ session, chrome, listeners, speaker, first, name }) => {
  console.log(`chromium ${chrome.version}`);
  await sleep(Number(options.seconds) * 1_000);
  for (const l of listeners) {
    const { finals, wrong } = audit(l);
    report(`${name}: finals in ${l.to} after ${options.seconds} s`, `${finals}${wrong.length ? `, WRONG ${wrong}` : ''}`);
    if (!finals || wrong.length) process.exitCode = 1;
  }
  let since = Date.now();
  await chrome.page.evaluate(() => mute(true));
  await sleep(8_000);
  const told = listeners[0].of('speakerKvsDisconnected', since).length;
  report(`${name}: muted 8 s, told disconnected`, told);
  since = Date.now();
  await chrome.page.evaluate(() => mute(false));
  report(`${name}: captions after unmute`, (await first('transcription', since)).map((c) => `${c.at - since} ms`));

  // KVS ends signaling sockets every hour and after ten idle minutes; local-cloud does so on demand.
  const { signalingUrl } = await call('POST', `/sessions/${session}/kvs-connection`);
  const cloud = new URL(signalingUrl);
  const dev = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"do":["cutSockets"]}' };
  const cut = await fetch(`http${cloud.protocol === 'wss:' ? 's' : ''}://${cloud.host}/dev/kvs`, dev);
  if (!cut.ok) throw new Error(`cutting the sockets: ${cut.status} ${await cut.text()}`);
  since = Date.now();
  await until('the page to open signaling again', async () =>
    (await chrome.events()).some((event) => event.what === 'signaling open' && event.at >= since));
  await first('transcription', Date.now() + 1_000);
  const disturbed = listeners[0].of('speakerKvsDisconnected', since).length;
  report(`${name}: signaling cut: told disconnected`, disturbed);
  if (told || disturbed) process.exitCode = 1;

  since = Date.now();
  await chrome.page.reload();
  await chrome.start();
  const gone = await first('speakerKvsDisconnected', since);
  const back = await first('speakerKvsReady', gone[0].at);
  report(`${name}: reload: disconnected, ready`, `${gone[0].at - since} ms (${gone[0].reason}), ${back[0].at - since} ms`);
  report(`${name}: captions after reload`, (await first('transcription', back[0].at)).map((c) => `${c.at - since} ms`));

  since = Date.now();
  await chrome.kill();
  open.delete(chrome);
  const lost = await first('speakerKvsDisconnected', since);
  report(`${name}: SIGKILL to speakerKvsDisconnected`, lost.map((m) => `${m.at - since} ms (${m.reason})`));
  await sleep(3_000);
  since = Date.now();
  await speaker();
  const ready = await first('speakerKvsReady', since);
  report(`${name}: another browser, ready`, ready.map((m) => `${m.at - since} ms`));
  report(`${name}: captions again`, (await first('transcription', ready[0].at)).map((c) => `${c.at - since} ms`));
});
await scene('no kvs-status, listener later (S4, S1)', { tellStatus: false, listenFirst: false });
await scene('listener first, no kvs-status (S2, S4)', { tellStatus: false });
await scene('slow ICE servers (1.5 s), no trickle', { iceDelayMs: 1_500, trickle: false });
process.exit();
