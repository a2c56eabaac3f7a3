/** Following a job: server-sent events read as a stream, since EventSource cannot send a token. */

import { ApiError, job as getJob, request } from "./api";
import type { Job, JobStatus } from "./types";

const ENDED: JobStatus[] = ["done", "failed", "cancelled"];
const LONGEST_WAIT_S = 10;

export const ended = (job: Job): boolean => ENDED.includes(job.status);

/** Tell `use` of every change until the job has ended, over lost connections and restarted servers. */
export async function follow(
  id: string,
  use: (job: Job) => void,
  signal: AbortSignal,
  lost: (lost: boolean) => void,
): Promise<void> {
  for (let failures = 0; !signal.aborted; ) {
    try {
      const job = await getJob(id);
      lost(false);
      failures = 0;
      use(job);
      if (ended(job) || (await stream(job, use, signal))) return;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError) || (error.status > 0 && error.status < 500)) throw error;
      lost(true);
      failures += 1;
    }
    await pause(Math.min(2 ** failures / 2, LONGEST_WAIT_S), signal);
  }
}

/** Read events, each the job or what changed of it, until the stream closes; return whether it has ended. */
async function stream(start: Job, use: (job: Job) => void, signal: AbortSignal): Promise<boolean> {
  const response = await request(`jobs/${start.id}/events`, { signal });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let [job, text] = [start, ""];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      const parts = (text + value).split(/\r?\n\r?\n/);
      text = parts.pop()!;
      for (const part of parts) {
        job = { ...job, ...parsed(part) };
        use(job);
        if (ended(job)) return true;
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError(0, "stream_lost", "The connection was lost.");
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

function parsed(event: string): Partial<Job> {
  const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return data.length ? (JSON.parse(data.map((line) => line.slice(5)).join("\n")) as Partial<Job>) : {};
}

function pause(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
