// Calls of the package as it is installed. The URL is the argument; prints what it has seen.
import {
  ClientClosed,
  Declined,
  Invalid,
  LedgerClient,
  LedgerError,
  NoAnswer,
  NotFound,
  RateLimited,
  Unavailable,
} from "ledgerservice-client";
import type { Account, Posted } from "ledgerservice-client";

declare const process: { argv: string[] };
const url = process.argv[2]!;
const seen: Record<string, unknown> = {};

// Counts the requests, and answers the next ones instead of the service.
let requests: string[] = [];
let instead: (() => Response)[] = [];
const counting: typeof fetch = async (target, init) => {
  requests.push(`${init?.method} ${new URL(String(target)).pathname}`);
  const answer = instead.shift();
  return answer === undefined ? fetch(target, init) : answer();
};
const client = new LedgerClient(url, { fetch: counting });

async function fault(call: Promise<unknown>): Promise<LedgerError> {
  try {
    await call;
  } catch (error) {
    if (error instanceof LedgerError) return error;
    throw error;
  }
  throw new Error("the call was answered");
}

const alice: Account = await client.openAccount({ owner: "Alice", currency: "USD" });
const bob = await client.openAccount({ owner: "Bob", currency: "USD" });
const pair = { from_account_id: alice.id, to_account_id: bob.id };
const one = { ...pair, amount: "1.00" };
const balance = async (account: Account) => (await client.account(account.id)).balance;

// An amount that a double cannot hold.
await client.deposit({ account_id: alice.id, amount: "9007199254740.93" });
await client.deposit({ account_id: alice.id, amount: 7n });
seen["exact"] = await balance(alice);
// @ts-expect-error: a number need not be exact
const inexact = client.deposit({ account_id: alice.id, amount: 0.1 });
seen["number"] = await inexact.catch((error: unknown) => error instanceof TypeError);

requests = [];
const together = await Promise.all(Array.from({ length: 64 }, () => client.transfer(one)));
seen["together"] = [new Set(together.map((posted: Posted) => posted.transaction_id)).size, [...requests]];

const soon = new Date(Date.now() + 86_400_000).toISOString();
const held = await client.hold({ account_id: alice.id, amount: "30", expires_at: soon });
const captured = await client.capture({ hold_id: held.transaction_id, amount: "10" });
await client.release({ hold_id: held.transaction_id });
const hold = await client.getHold(held.transaction_id);
seen["hold"] = [captured.remaining, hold.status, hold.captured, hold.released];

const legs = [
  { account_id: alice.id, amount: "-2" },
  { account_id: bob.id, amount: 2n },
];
const general = await client.post({ legs, description: 'a "text" \u{1F600}' });
const back = await client.reverse({ transaction_id: general.transaction_id });
seen["general"] = [general.description, back.reverses === general.transaction_id];

const declined = await fault(client.withdraw({ account_id: bob.id, amount: "65", idempotency_key: "w" }));
seen["declined"] = [
  declined instanceof Declined,
  declined.code,
  declined.retry,
  declined.key,
  declined.problem?.decided_on?.available,
  declined.requestId !== null,
];
const invalid = await fault(client.deposit({ account_id: bob.id, amount: "-1" }));
seen["invalid"] = [invalid instanceof Invalid, invalid.field];
seen["missing"] = (await fault(client.account(10 ** 12))) instanceof NotFound;

const known = await client.outcome(bob.id, "w");
seen["outcome"] = [known?.status, known?.code, await client.outcome(bob.id, "never")];

let versions = 0;
for await (const entry of client.history(alice.id, { limit: 10 })) versions += entry.version > 0 ? 1 : 0;
seen["history"] = versions === (await client.account(alice.id)).version;

const types: string[] = [];
for await (const event of client.events({ account_id: bob.id, limit: 20 })) {
  types.push(event.type);
  if (types.length === 66) break;
}
const rest: string[] = [];
for await (const event of client.events({ account_id: bob.id }, { follow: false })) rest.push(event.type);
seen["events"] = [types[0], types[65], rest.length >= 66];

// What passes is sent again with the same key: no answer, 503, 429, a stream that is cut.
const problem = (status: number, code: string, headers = {}) => () =>
  new Response(JSON.stringify({ code, detail: code, retry: "same_key" }), { status, headers });
const before = await balance(bob);
instead = [
  () => {
    throw new TypeError("fetch failed");
  },
  problem(503, "overloaded"),
  problem(429, "rate_limited", { "Retry-After": "1" }),
  () => new Response("", { status: 200 }),
  () => new Response('{"line":1,"sta', { status: 200 }),
  () => {
    const body = '{"code":"overloaded","detail":"","retry":"same_key"}';
    return new Response(`{"line":1,"status":503,"replayed":false,"body":${body}}\n`);
  },
];
const begun = performance.now();
await Promise.all([client.transfer(one), client.transfer(one)]);
seen["again"] = [performance.now() - begun > 1_000, Number(await balance(bob)) - Number(before)];

// One refused line harms no other, and each call has its own error.
const mixed = await Promise.allSettled([
  client.transfer({ ...one, amount: "x" }),
  client.transfer(one),
  client.transfer({ ...one, to_account_id: 10 ** 9 }),
  client.transfer(one),
]);
seen["mixed"] = mixed.map((end) => end.status);

const hasty = new LedgerClient(url, { fetch: counting, giveUpMs: 200 });
instead = Array.from({ length: 50 }, () => problem(503, "unavailable"));
const gone = await Promise.all([fault(hasty.transfer(one)), fault(hasty.transfer(one))]);
instead = Array.from({ length: 50 }, () => problem(429, "rate_limited", { "Retry-After": "60" }));
const limited = await fault(hasty.transfer(one));
instead = Array.from({ length: 50 }, () => () => {
  throw new TypeError("fetch failed");
});
const silent = await fault(hasty.account(alice.id));
instead = [];
seen["gives up"] = [
  gone.every((error) => error instanceof Unavailable && error.code === "unavailable"),
  gone[0] !== gone[1] && gone[0]?.key !== gone[1]?.key,
  limited instanceof RateLimited,
  silent instanceof NoAnswer,
];

// A call that is cancelled harms no other; closing waits for the others.
const narrow = new LedgerClient(url, { queueLimit: 5 });
const start = await balance(bob);
const controller = new AbortController();
const cancelled = narrow.transfer(one, { signal: controller.signal });
const others = Array.from({ length: 40 }, () => narrow.transfer(one));
controller.abort();
seen["cancelled"] = await cancelled.catch((error: Error) => error.name);
await narrow.close();
const left = await Promise.all(others);
seen["closed"] = [
  new Set(left.map((posted) => posted.transaction_id)).size,
  Number(await balance(bob)) - Number(start),
  await narrow.transfer(one).catch((error: unknown) => error instanceof ClientClosed),
];
await client.close();
console.log(JSON.stringify(seen));
