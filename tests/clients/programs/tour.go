// The tour, with the client that openapi-generator generates. The URL is the argument.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	ledger "github.com/GIT_USER_ID/GIT_REPO_ID"
)

func check(err error) {
	if err != nil {
		var refused *ledger.GenericOpenAPIError
		if errors.As(err, &refused) {
			panic(string(refused.Body()))
		}
		panic(err)
	}
}

func main() {
	configuration := ledger.NewConfiguration()
	configuration.Servers = ledger.ServerConfigurations{{URL: os.Args[1]}}
	api, ctx := ledger.NewAPIClient(configuration), context.Background()

	open := func(owner string) int64 {
		body := ledger.NewOpenAccount(owner, "USD")
		account, _, err := api.AccountsAPI.OpenAccount(ctx).OpenAccount(*body).Execute()
		check(err)
		return account.Id
	}
	alice, bob := open("Alice"), open("Bob")

	deposit := ledger.NewDeposit(alice, "100.00")
	deposit.SetIdempotencyKey("dep1")
	_, _, err := api.MoneyAPI.Deposit(ctx).Deposit(*deposit).Execute()
	check(err)

	transfer := func(amount string, key string) (*ledger.Posted, error) {
		body := ledger.NewTransfer(alice, bob, amount)
		body.SetIdempotencyKey(key)
		posted, _, err := api.MoneyAPI.Transfer(ctx).Transfer(*body).Execute()
		return posted, err
	}
	posted, err := transfer("49.99", "tx1")
	check(err)

	tomorrow := time.Now().Add(24 * time.Hour)
	hold := ledger.NewPlaceHold(alice, "1.00")
	hold.SetIdempotencyKey("h")
	hold.SetExpiresAt(tomorrow)
	held, _, err := api.HoldsAPI.PlaceHold(ctx).PlaceHold(*hold).Execute()
	check(err)
	if !held.ExpiresAt.Get().Equal(tomorrow.Truncate(time.Microsecond)) {
		panic(held.ExpiresAt.Get())
	}

	items := []ledger.BatchItem{
		ledger.DepositItemAsBatchItem(ledger.NewDepositItem("b1", bob, "1.00", "DEPOSIT")),
		ledger.TransferItemAsBatchItem(ledger.NewTransferItem("b2", alice, bob, "1.00", "TRANSFER")),
	}
	batch := ledger.Batch{}
	for place := range items {
		batch.Movements = append(batch.Movements, ledger.BatchMember{BatchItem: &items[place]})
	}
	results, _, err := api.MoneyAPI.PostBatch(ctx).Batch(batch).Execute()
	check(err)
	statuses := []int64{}
	for _, result := range results.Results {
		statuses = append(statuses, result.Status)
	}

	_, err = transfer("60.00", "tx2")
	var refused *ledger.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic("the transfer was posted")
	}
	problem := refused.Model().(ledger.ProblemDetails)
	if problem.Code != ledger.INSUFFICIENT_FUNDS {
		panic(problem.Code)
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"balance":   posted.GetSenderNewBalance(),
		"batch":     statuses,
		"code":      problem.Code,
		"retry":     problem.Retry,
		"available": problem.DecidedOn.Available,
	}))
}
