// p-queue, with the back pressure that its documentation shows, so that the queue stays short.

import PQueue from "p-queue";
import { measure } from "./measure.mjs";

await measure(async (job, jobs, atOnce, add) => {
  const queue = new PQueue({ concurrency: atOnce });
  for (let n = 0; n < jobs; n++) {
    await queue.onSizeLessThan(1024);
    queue.add(async () => add(await job(n)));
  }
  await queue.onIdle();
});
