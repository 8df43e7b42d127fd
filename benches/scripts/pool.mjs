// A promise pool by hand: so many loops that take the next number from one iterator.

import { measure } from "./measure.mjs";

await measure(async (job, jobs, atOnce, add) => {
  let next = 0;
  const worker = async () => {
    while (next < jobs) add(await job(next++));
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
});
