// One viewer session of the unmodified official JS client, both roles, through real TLS.
// Arguments: the bundle; environment: MASTER, VIEWER (endpoints), ARN, SECRET. Exit code 0 when all of it happened.
import { readFileSync } from 'node:fs';

globalThis.window = globalThis;
const bundle = { exports: {} };
new Function('module', 'exports', readFileSync(process.argv[2], 'utf8'))(bundle, bundle.exports);
const { SignalingClient, Role } = bundle.exports.SignalingClient ? bundle.exports : globalThis.KVSWebRTC;

const { MASTER, VIEWER, ARN, SECRET } = process.env;
const common = {
    channelARN: ARN,
    region: 'us-east-1',
    credentials: { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: SECRET, sessionToken: 'dummy/+=' },
};
const master = new SignalingClient({ ...common, role: Role.MASTER, channelEndpoint: MASTER });
const viewer = new SignalingClient({ ...common, role: Role.VIEWER, clientId: 'viewer_1.x', channelEndpoint: VIEWER });

const seen = [];
const event = (client, who, name) =>
    new Promise((resolve, reject) => {
        client.on(name, (...args) => {
            seen.push(`${who} ${name}`);
            resolve(args);
        });
        client.on('error', (error) => reject(new Error(`${who}: ${error.message ?? error}`)));
    });
const timer = setTimeout(() => {
    console.error(`gave up; seen: ${seen.join(', ')}`);
    process.exit(2);
}, 10000);

const candidate = { candidate: 'candidate:1 1 udp 2130706431 192.0.2.1 5001 typ host', sdpMid: '0', sdpMLineIndex: 0 };
const masterOpen = event(master, 'master', 'open');
const viewerOpen = event(viewer, 'viewer', 'open');
master.open();
viewer.open();
await Promise.all([masterOpen, viewerOpen]);

const offered = event(master, 'master', 'sdpOffer');
const early = event(master, 'master', 'iceCandidate');
viewer.sendIceCandidate(candidate);
viewer.sendSdpOffer({ type: 'offer', sdp: 'v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n' }, undefined, 'corr-1');
const [offer, from] = await offered;
if (offer.type !== 'offer' || from !== 'viewer_1.x') throw new Error(`offer ${JSON.stringify(offer)} from ${from}`);
await early;

const answered = event(viewer, 'viewer', 'sdpAnswer');
const late = event(viewer, 'viewer', 'iceCandidate');
master.sendIceCandidate(candidate, 'viewer_1.x');
master.sendSdpAnswer({ type: 'answer', sdp: 'v=0\r\n' }, 'viewer_1.x');
const [answer, sender] = await answered;
if (answer.type !== 'answer' || sender !== undefined) throw new Error(`answer from ${sender}`);
await late;

const refused = event(viewer, 'viewer', 'statusResponse');
viewer.sendSdpOffer({ type: 'offer', sdp: 'x'.repeat(10000) }, undefined, 'corr-2');
const [status] = await refused;
if (status.correlationId !== 'corr-2' || status.statusCode !== '400') throw new Error(JSON.stringify(status));

const closed = event(viewer, 'viewer', 'close');
viewer.close();
await closed;
master.close();
clearTimeout(timer);
console.log(seen.join(', '));
