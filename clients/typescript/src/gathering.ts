// Calls that wait at the same time go out as the lines of one request. There is no timer: what is
// called while a request is in flight is the next one.
import type { Connection } from "./connection.js";
import { errorOf, LedgerError, noAnswer, pauseMs, sleep } from "./errors.js";
import type { Refusal } from "./errors.js";

const MOST_LINES = 1_000;
const REQUESTS = 2;

interface Waiting {
  readonly line: string;
  readonly key: string;
  readonly endMs: number;
  readonly resolve: (body: unknown) => void;
  readonly reject: (error: unknown) => void;
  failures: number;
  fault: LedgerError | undefined;
  isGone: boolean;
}

export class ClientClosed extends Error {}

export class Gathering {
  readonly #connection: Connection;
  readonly #limit: number;
  readonly #queue: Waiting[] = [];
  readonly #forPlace: (() => void)[] = [];
  #number = 0;
  #calls = 0;
  #senders = 0;
  #failures = 0;
  #fault: LedgerError | undefined;
  #resumeMs = 0;
  #isClosed = false;
  #whenEmpty: (() => void)[] = [];

  constructor(connection: Connection, limit: number) {
    this.#connection = connection;
    this.#limit = limit;
  }

  /** The body of the answer to an item. Waits for a place in the queue. */
  post(line: string, key: string, signal?: AbortSignal): Promise<unknown> {
    return new Promise<unknown>((resolve, reject) => {
      if (this.#isClosed) throw new ClientClosed("the client is closed");
      signal?.throwIfAborted();
      const endMs = performance.now() + this.#connection.giveUpMs;
      const leave = () => {
        waiting.isGone = true;
        reject(signal!.reason);
      };
      const ending =
        <T>(end: (value: T) => void) =>
        (value: T) => {
          signal?.removeEventListener("abort", leave);
          end(value);
        };
      const ends = { resolve: ending(resolve), reject: ending(reject) };
      const waiting = { line, key, endMs, ...ends, failures: 0, fault: undefined, isGone: false };
      signal?.addEventListener("abort", leave, { once: true });
      this.#calls++;
      this.#enter(() => this.#enqueue(waiting));
    });
  }

  /** Take no further items, and return when all have their answers. */
  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#calls > 0) await new Promise<void>((resolve) => this.#whenEmpty.push(resolve));
  }

  #enqueue(waiting: Waiting): void {
    this.#queue.push(waiting);
    if (this.#senders < REQUESTS) {
      this.#senders++;
      void this.#sendAll();
    }
  }

  #enter(begin: () => void): void {
    if (this.#number === this.#limit) {
      this.#forPlace.push(begin);
      return;
    }
    this.#number++;
    begin();
  }

  /** The place of a call that has ended goes to the next one that waits for it. */
  #leave(): void {
    const next = this.#forPlace.shift();
    if (next === undefined) this.#number--;
    else next();
    if (--this.#calls === 0) for (const resolve of this.#whenEmpty.splice(0)) resolve();
  }

  async #sendAll(): Promise<void> {
    await undefined; // what is called in the same turn goes out together
    while (this.#queue.length > 0) {
      const waitMs = this.#resumeMs - performance.now();
      if (waitMs > 0) await sleep(waitMs);
      else await this.#send(this.#next());
    }
    this.#senders--;
  }

  /** The items of the next request, without those whose caller has gone or gives up. */
  #next(): Waiting[] {
    const batch: Waiting[] = [];
    const nowMs = performance.now();
    for (const waiting of this.#queue.splice(0, MOST_LINES)) {
      const fault = waiting.fault ?? this.#fault;
      if (waiting.isGone) this.#leave();
      else if (fault !== undefined && waiting.endMs <= nowMs) this.#fail(waiting, fault);
      else batch.push(waiting);
    }
    return batch;
  }

  async #send(batch: Waiting[]): Promise<void> {
    if (batch.length === 0) return;
    const remaining = new Map(batch.map((waiting, place) => [place + 1, waiting]));
    let fault: unknown = noAnswer("the answer ended before its end");
    try {
      const lines = batch.map((waiting) => waiting.line);
      await this.#connection.post(lines, (line, answer) => {
        const waiting = remaining.get(line);
        if (waiting === undefined) throw new Error(`a line ${line} was not sent`);
        remaining.delete(line);
        this.#take(waiting, answer);
      });
      this.#fault = undefined;
    } catch (error) {
      fault = error;
    }
    if (remaining.size > 0) this.#again([...remaining.values()], fault);
  }

  #take(waiting: Waiting, answer: Refusal): void {
    this.#failures = 0;
    if (answer.status === 200) {
      this.#leave();
      waiting.resolve(answer.body);
      return;
    }
    const fault = errorOf(answer);
    waiting.fault = fault;
    const waitMs = pauseMs(waiting.failures++);
    if (!fault.passes || performance.now() + waitMs > waiting.endMs) this.#fail(waiting, fault);
    else setTimeout(() => this.#enqueue(waiting), waitMs);
  }

  /** Put items in front of the queue, or fail them. All others wait too. */
  #again(batch: Waiting[], fault: unknown): void {
    if (!(fault instanceof LedgerError) || !fault.passes) {
      for (const waiting of batch) this.#fail(waiting, fault);
      return;
    }
    const waitMs = pauseMs(this.#failures++, fault.refusal.retryAfterMs);
    this.#fault = fault;
    this.#resumeMs = performance.now() + Math.min(waitMs, this.#connection.giveUpMs);
    this.#queue.unshift(...batch);
  }

  /** Reject with an error of this call's own, which has its key. */
  #fail(waiting: Waiting, fault: unknown): void {
    this.#leave();
    if (!(fault instanceof LedgerError)) {
      waiting.reject(fault);
      return;
    }
    const error = fault.status === 0 ? noAnswer(fault) : errorOf(fault.refusal);
    error.key = waiting.key;
    waiting.reject(error);
  }
}
