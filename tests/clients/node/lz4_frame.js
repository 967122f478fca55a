// LZ4 frames as Kafka wants them, around lz4js's blocks: its own frames link their blocks, which
// Kafka's Java code refuses, and it misreads frames that carry their content's size.
'use strict';

const lz4 = require('lz4js');

const MAGIC = 0x184d2204;
const BLOCK_BYTES = 64 * 1024;
// Version 1, independent blocks, no checksums; blocks of 64 KiB; the checksum of these two bytes.
const HEADER = Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
const UNCOMPRESSED = 0x80000000;

function compress(data) {
  const parts = [HEADER];
  for (let at = 0; at < data.length; at += BLOCK_BYTES) {
    const block = data.subarray(at, at + BLOCK_BYTES);
    const out = Buffer.alloc(lz4.compressBound(block.length));
    const size = lz4.compressBlock(block, out, 0, block.length, new Uint32Array(1 << 16));
    const length = Buffer.alloc(4);
    if (size === 0 || size >= block.length) {
      length.writeUInt32LE((UNCOMPRESSED | block.length) >>> 0);
      parts.push(length, block);
    } else {
      length.writeUInt32LE(size);
      parts.push(length, out.subarray(0, size));
    }
  }
  parts.push(Buffer.alloc(4));
  return Buffer.concat(parts);
}

function* blocks(frame, from, hasChecksums) {
  for (let at = from; ; ) {
    const word = frame.readUInt32LE(at);
    if (word === 0) return;
    const size = word & ~UNCOMPRESSED;
    yield { isRaw: word >= UNCOMPRESSED, from: at + 4, size };
    at += 4 + size + (hasChecksums ? 4 : 0);
  }
}

function decompress(frame) {
  if (frame.readUInt32LE(0) !== MAGIC) throw new Error('no LZ4 frame');
  const flags = frame[4];
  const hasBlockChecksums = (flags & 0x10) !== 0;
  const hasContentSize = (flags & 0x08) !== 0;
  const blockBytes = 1 << (8 + 2 * ((frame[5] >> 4) & 7));
  const body = 7 + (hasContentSize ? 8 : 0);
  const all = [...blocks(frame, body, hasBlockChecksums)];
  // Blocks may refer to earlier ones, so all go to one buffer.
  const out = Buffer.alloc(all.length * blockBytes);
  let end = 0;
  for (const { isRaw, from, size } of all) {
    if (isRaw) {
      end += frame.copy(out, end, from, from + size);
    } else {
      end = lz4.decompressBlock(frame, out, from, size, end);
    }
  }
  return out.subarray(0, end);
}

module.exports = { compress, decompress };
