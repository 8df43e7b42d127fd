// undici with p-queue: node undici.mjs URLS AT_ONCE >answers.csv
import { createRequire } from "node:module";
import { createReadStream, createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

// NODE_PATH is heard by `require` alone.
const require = createRequire(import.meta.url);
const { Agent, request, setGlobalDispatcher } = require("undici");
const { default: PQueue } = await import(pathToFileURL(require.resolve("p-queue")));

const [, , path, atOnce] = process.argv;
setGlobalDispatcher(new Agent({ connections: Number(atOnce) }));
const queue = new PQueue({ concurrency: Number(atOnce) });
const out = createWriteStream("/dev/stdout");
for await (const url of createInterface({ input: createReadStream(path) })) {
  if (queue.size > 10000) await queue.onSizeLessThan(5000);
  queue.add(async () => {
    const { statusCode, body } = await request(url);
    const bytes = (await body.arrayBuffer()).byteLength;
    out.write(`${url},${statusCode},${bytes}\n`);
  });
}
await queue.onIdle();
