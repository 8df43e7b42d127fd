// What the two pools of Node share: the work, and the line that says what it took.

const work = {
  ready: async (n) => n,
  yield: async (n) => {
    await null;
    return n;
  },
  sleep: (n) => new Promise((resolve) => setTimeout(resolve, 1, n)),
};

/** Runs `pool(job, jobs, atOnce, add)`, which calls `add` with each result. */
export async function measure(pool) {
  const [name, jobs, atOnce] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
  let [count, sum] = [0, 0];
  const add = (n) => {
    count += 1;
    sum += n;
  };
  const [wall, cpu] = [process.hrtime.bigint(), process.cpuUsage()];
  await pool(work[name], jobs, atOnce, add);
  const took = process.cpuUsage(cpu);
  console.log(
    JSON.stringify({
      wall_ns: Number(process.hrtime.bigint() - wall),
      cpu_ns: (took.user + took.system) * 1000,
      count,
      sum,
      peak_kib: process.resourceUsage().maxRSS,
    }),
  );
}
