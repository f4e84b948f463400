// The tour, with openapi-fetch and the types of openapi-typescript. The URL is the argument.
import createClient from "openapi-fetch";
import type { components, paths } from "./api";

declare const process: { argv: string[] };

function posted<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const client = createClient<paths>({ baseUrl: process.argv[2] });
const open = (owner: string) => client.POST("/accounts/", { body: { owner, currency: "USD" } });
const alice = posted(await open("Alice"));
const bob = posted(await open("Bob"));

const money = { account_id: alice.id, amount: "100.00", idempotency_key: "dep1" };
posted(await client.POST("/deposit/", { body: money }));
const move = { from_account_id: alice.id, to_account_id: bob.id };
const first = posted(
  await client.POST("/transfer/", { body: { ...move, amount: "49.99", idempotency_key: "tx1" } }),
);
// 202 is a proposal that others have to approve.
if ("state" in first) throw new Error(first.state);

const expires_at = new Date(Date.now() + 86_400_000).toISOString();
const hold = { account_id: alice.id, amount: "1.00", expires_at, idempotency_key: "h" };
const held = posted(await client.POST("/holds/", { body: hold }));
if (new Date(held.expires_at!).getTime() !== new Date(expires_at).getTime()) throw new Error();

const batch = posted(
  await client.POST("/batches/", {
    body: {
      movements: [
        { type: "DEPOSIT", account_id: bob.id, amount: "1.00", idempotency_key: "b1" },
        { type: "TRANSFER", ...move, amount: "1.00", idempotency_key: "b2" },
      ],
    },
  }),
);

const { error } = await client.POST("/transfer/", {
  body: { ...move, amount: "60.00", idempotency_key: "tx2" },
});
if (error === undefined) throw new Error("the transfer was posted");
const code: components["schemas"]["ProblemCode"] = error.code;
if (code !== "insufficient_funds") throw new Error(code);
console.log(
  JSON.stringify({
    balance: first.sender_new_balance,
    batch: batch.results.map((result) => result.status),
    code,
    retry: error.retry,
    available: error.decided_on?.available,
  }),
);
