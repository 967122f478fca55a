// kafkajs behind JSON lines: {"op": "produce" | "consume", ...}; bytes are base64, null is null.
'use strict';

const readline = require('readline');
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require('kafkajs');
const snappy = require('kafkajs-snappy');
const lz4 = require('./lz4_frame.js');
const { ZstdCodec } = require('zstd-codec');

const LIMIT_MS = 20000;
const TYPES = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
};

CompressionCodecs[CompressionTypes.Snappy] = snappy;
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async (encoder) => lz4.compress(encoder.buffer),
  decompress: async (buffer) => lz4.decompress(buffer),
});
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer)),
});
// The streaming form: frames of other clients need not tell their size.
const zstd = new Promise((resolve) => ZstdCodec.run((codec) => resolve(new codec.Streaming())));

const kafka = new Kafka({
  clientId: 'kafkajs',
  brokers: [process.argv[2]],
  logLevel: logLevel.ERROR,
  logCreator: () => (entry) => process.stderr.write(`${JSON.stringify(entry.log)}\n`),
});

const bytes = (text) => (text === null ? null : Buffer.from(text, 'base64'));
const text = (data) =>
  data === null || data === undefined ? null : Buffer.from(data).toString('base64');

let producer;

async function produce({ topic, records, compression }) {
  if (!producer) {
    producer = kafka.producer({ allowAutoTopicCreation: true });
    await producer.connect();
  }
  const messages = records.map(({ k, v, h, ts }) => {
    const headers = {};
    for (const [name, value] of h) {
      headers[name] = name in headers ? [headers[name], bytes(value)].flat() : bytes(value);
    }
    const message = { key: bytes(k), value: bytes(v), headers };
    if (ts !== null) message.timestamp = String(ts);
    return message;
  });
  const acks = await producer.send({ topic, messages, acks: -1, compression: TYPES[compression] });
  // kafkajs tells the base offset of a partition; the tests' topics have one partition.
  const base = Number(acks[0].baseOffset);
  return { offsets: records.map((_, index) => [acks[0].partition, base + index]) };
}

async function consume({ topics }) {
  const admin = kafka.admin();
  await admin.connect();
  const ends = new Map();
  for (const topic of topics) {
    for (const { partition, high } of await admin.fetchTopicOffsets(topic)) {
      if (Number(high) > 0) ends.set(`${topic} ${partition}`, Number(high));
    }
  }
  await admin.disconnect();
  // kafkajs consumes in groups only.
  const groupId = `kafkajs-${process.pid}-${Date.now()}`;
  const consumer = kafka.consumer({ groupId, maxWaitTimeInMs: 100, sessionTimeout: 10000 });
  await consumer.connect();
  await consumer.subscribe({ topics, fromBeginning: true });
  const records = [];
  let timer;
  try {
    await new Promise((resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`unread: ${[...ends.keys()]}`)), LIMIT_MS);
      if (ends.size === 0) resolve();
      const eachMessage = async ({ topic, partition, message }) => {
        const h = Object.entries(message.headers).flatMap(([name, values]) =>
          [values].flat().map((value) => [name, text(value)]),
        );
        const { key, value, offset, timestamp } = message;
        records.push({
          t: topic, p: partition, o: Number(offset), ts: timestamp, k: text(key), v: text(value), h,
        });
        if (Number(offset) + 1 >= ends.get(`${topic} ${partition}`)) {
          ends.delete(`${topic} ${partition}`);
          if (ends.size === 0) resolve();
        }
      };
      consumer.run({ autoCommit: false, eachMessage }).catch(reject);
    });
  } finally {
    clearTimeout(timer);
    await consumer.disconnect();
  }
  return { records };
}

async function main() {
  const operations = { produce, consume };
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
  process.exit(0);
}

main();
