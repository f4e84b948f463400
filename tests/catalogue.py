"""What PostgreSQL's catalogue says about a ledger's schema, for comparisons."""

THE_DATABASE = """
SELECT 'relation', relname, relkind::text, relowner::regrole::text, relacl::text,
       relrowsecurity::text
FROM pg_class WHERE relnamespace = 'ledger'::regnamespace
UNION ALL
SELECT 'column', attrelid::regclass::text, attnum::text, attname, attacl::text,
       concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                 pg_get_expr(adbin, adrelid))
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
WHERE relnamespace = 'ledger'::regnamespace AND attnum > 0
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, convalidated::text,
       pg_get_constraintdef(oid), NULL
FROM pg_constraint WHERE connamespace = 'ledger'::regnamespace
UNION ALL
SELECT 'index', indexrelid::regclass::text, indisvalid::text, pg_get_indexdef(indexrelid), NULL,
       NULL
FROM pg_index i JOIN pg_class c ON c.oid = indexrelid
WHERE relnamespace = 'ledger'::regnamespace
UNION ALL
SELECT 'function', proname, pg_get_functiondef(oid), proowner::regrole::text, proacl::text, NULL
FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname, tgenabled::text, pg_get_triggerdef(t.oid), NULL
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
WHERE relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
UNION ALL
SELECT 'sequence', seqrelid::regclass::text, seqstart::text, seqincrement::text, seqcache::text,
       NULL
FROM pg_sequence s JOIN pg_class c ON c.oid = seqrelid
WHERE relnamespace = 'ledger'::regnamespace
UNION ALL
SELECT 'schema', nspname, nspowner::regrole::text, nspacl::text, NULL, NULL
FROM pg_namespace WHERE nspname = 'ledger'
UNION ALL
SELECT 'revision', version_num, NULL, NULL, NULL, NULL FROM ledger.alembic_version
"""
