// mqtt.js (MQTT 5) behind JSON lines: {"op": "publish" | "subscribe" | "drain", ...}.
'use strict';

const readline = require('readline');
const mqtt = require('mqtt');

const received = [];
const client = mqtt.connect(process.argv[2], {
  protocolVersion: 5,
  clientId: process.argv[3],
  reconnectPeriod: 0,
  connectTimeout: 15000,
  properties: { receiveMaximum: 100 },
});

const b64 = (data) =>
  data === null || data === undefined ? null : Buffer.from(data).toString('base64');
const connected = new Promise((resolve, reject) => {
  client.on('connect', resolve);
  client.on('error', reject);
});

client.on('message', (topic, payload, packet) => {
  const properties = packet.properties || {};
  received.push({
    topic,
    payload: b64(payload),
    qos: packet.qos,
    retain: packet.retain,
    user: Object.entries(properties.userProperties || {}).flatMap(([name, values]) =>
      [values].flat().map((value) => [name, value]),
    ),
    content_type: properties.contentType ?? null,
    response_topic: properties.responseTopic ?? null,
    correlation: b64(properties.correlationData),
    payload_format: properties.payloadFormatIndicator === undefined
      ? null : Number(properties.payloadFormatIndicator),
    expiry: properties.messageExpiryInterval ?? null,
  });
});

async function publish({ message }) {
  await connected;
  const properties = {};
  if (message.user.length) {
    properties.userProperties = {};
    for (const [name, value] of message.user) {
      const before = properties.userProperties[name];
      properties.userProperties[name] = before === undefined ? value : [before, value].flat();
    }
  }
  if (message.content_type !== null) properties.contentType = message.content_type;
  if (message.response_topic !== null) properties.responseTopic = message.response_topic;
  if (message.correlation !== null) {
    properties.correlationData = Buffer.from(message.correlation, 'base64');
  }
  if (message.payload_format !== null) {
    properties.payloadFormatIndicator = message.payload_format === 1;
  }
  if (message.expiry !== null) properties.messageExpiryInterval = message.expiry;
  const { topic, qos, retain } = message;
  await client.publishAsync(topic, Buffer.from(message.payload, 'base64'), {
    qos, retain, properties,
  });
  return {};
}

async function subscribe({ filters, qos }) {
  await connected;
  const granted = await client.subscribeAsync(filters, { qos });
  return { granted: granted.map((one) => one.qos) };
}

async function drain() {
  return { messages: received.splice(0) };
}

async function main() {
  const operations = { publish, subscribe, drain };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
      answer = await operations[request.op](request);
    } catch (error) {
      answer = { error: String(error.stack || error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await client.endAsync();
  process.exit(0);
}

main();
