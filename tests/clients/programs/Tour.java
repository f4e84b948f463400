import com.google.gson.Gson;
import java.time.OffsetDateTime;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.AccountsApi;
import org.openapitools.client.api.HoldsApi;
import org.openapitools.client.api.MoneyApi;
import org.openapitools.client.model.*;

/** The tour, with the client that openapi-generator generates. The URL is the argument. */
public class Tour {
  public static void main(String[] arguments) throws Exception {
    ApiClient client = new ApiClient();
    client.setBasePath(arguments[0]);
    AccountsApi accounts = new AccountsApi(client);
    MoneyApi money = new MoneyApi(client);
    OpenAccount opening = new OpenAccount().owner("Alice").currency("USD");
    Long alice = accounts.openAccount(opening, null, null).getId();
    Long bob = accounts.openAccount(opening.owner("Bob"), null, null).getId();

    Deposit deposit = new Deposit().accountId(alice).amount("100.00").idempotencyKey("dep1");
    money.deposit(deposit, null, null);
    Transfer transfer = new Transfer().fromAccountId(alice).toAccountId(bob);
    Posted posted = money.transfer(transfer.amount("49.99"), "tx1", false);

    OffsetDateTime tomorrow = OffsetDateTime.now().plusDays(1);
    PlaceHold hold = new PlaceHold().accountId(alice).amount("1.00").expiresAt(tomorrow);
    Posted held = new HoldsApi(client).placeHold(hold, "h", null);
    if (!held.getExpiresAt().isEqual(tomorrow.truncatedTo(ChronoUnit.MICROS))) {
      throw new IllegalStateException(held.getExpiresAt().toString());
    }

    DepositItem first = new DepositItem().type(DepositItem.TypeEnum.DEPOSIT).accountId(bob);
    TransferItem second = new TransferItem().type(TransferItem.TypeEnum.TRANSFER);
    first.amount("1.00").idempotencyKey("b1");
    second.fromAccountId(alice).toAccountId(bob).amount("1.00").idempotencyKey("b2");
    Batch batch = new Batch();
    batch.addMovementsItem(new BatchMember(new BatchItem(first)));
    batch.addMovementsItem(new BatchMember(new BatchItem(second)));
    List<Long> statuses = new ArrayList<>();
    for (Result result : money.postBatch(batch, null).getResults()) {
      statuses.add(result.getStatus());
    }

    try {
      money.transfer(transfer.amount("60.00"), "tx2", null);
      throw new IllegalStateException("the transfer was posted");
    } catch (ApiException refused) {
      ProblemDetails problem = ProblemDetails.fromJson(refused.getResponseBody());
      if (problem.getCode() != ProblemCode.INSUFFICIENT_FUNDS) {
        throw new IllegalStateException(problem.getCode().getValue());
      }
      Map<String, Object> answer = new LinkedHashMap<>();
      answer.put("balance", posted.getSenderNewBalance());
      answer.put("batch", statuses);
      answer.put("code", problem.getCode().getValue());
      answer.put("retry", problem.getRetry().getValue());
      answer.put("available", problem.getDecidedOn().getAvailable());
      System.out.println(new Gson().toJson(answer));
    }
  }
}
