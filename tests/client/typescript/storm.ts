// 16 tasks transfer one dollar, ten times each. The URL is the argument; prints both ends.
import { LedgerClient } from "ledgerservice-client";

declare const process: { argv: string[] };
const client = new LedgerClient(process.argv[2]!);
const alice = await client.openAccount({ owner: "Alice", currency: "USD" });
const bob = await client.openAccount({ owner: "Bob", currency: "USD" });
await client.deposit({ account_id: alice.id, amount: "1000" });
const pair = { from_account_id: alice.id, to_account_id: bob.id };
const ids = new Set<number>();
async function work(): Promise<void> {
  for (let number = 0; number < 10; number++) {
    ids.add((await client.transfer({ ...pair, amount: "1" })).transaction_id);
  }
}
await Promise.all(Array.from({ length: 16 }, work));
await client.close();
const balances = [await client.account(alice.id), await client.account(bob.id)];
console.log(JSON.stringify([ids.size, ...balances.map((account) => account.balance)]));
