-- Currencies: those of ISO 4217 have its numbers (but for 1 and 2, which were there before), all
-- others numbers from 1000 on. A currency is never changed: an amount would mean something else.
CREATE SEQUENCE ledger.currency_number AS smallint MINVALUE 1000;
ALTER TABLE ledger.currencies ALTER COLUMN number SET DEFAULT nextval('ledger.currency_number');
ALTER TABLE ledger.currencies
    ADD CONSTRAINT currencies_name_length CHECK (length(name) BETWEEN 1 AND 255);
ALTER TABLE ledger.currencies ENABLE ALWAYS TRIGGER currencies_permanent;
