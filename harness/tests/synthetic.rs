//! Synthetic rows on real servers: every constraint is asked again of the server after the rows are in, since the keys were written
//! without its triggers.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::RunFolder;
use fulldress::synthetic::{Filled, Request, fill};
use sqlx::{AssertSqlSafe, PgConnection};

#[path = "support/versions.rs"]
mod versions;

const FEATURES: &str = include_str!("synthetic/features.sql");
const ROWS: u64 = 100;

/// A cluster of one version, stopped when dropped.
struct Server {
    cluster: Cluster,
    _run: Arc<RunFolder>,
    _state: tempfile::TempDir,
}

impl Server {
    async fn start(programs: PathBuf) -> Self {
        let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let settings = [("fsync", "off"), ("autovacuum", "off"), ("full_page_writes", "off")];
        let settings: BTreeMap<String, String> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let programs = Programs { folder: programs };
        let limit = Duration::from_secs(60);
        let mut cluster = Cluster::create(programs, &run, "server", settings, limit).await.unwrap();
        cluster.start().await.unwrap();
        Self { cluster, _run: run, _state: state }
    }

    /// A database of its own with a schema.
    async fn database(&self, name: &str, schema: &str) -> PgConnection {
        let mut admin = self.cluster.connect("postgres").await.unwrap();
        execute(&mut admin, &format!("CREATE DATABASE {name}")).await;
        let mut connection = self.cluster.connect(name).await.unwrap();
        execute(&mut connection, schema).await;
        connection
    }

    async fn fill(&self, database: &str, request: &Request) -> Filled {
        fill(&self.cluster.options(database), request).await.unwrap()
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    let ended = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    ended.unwrap_or_else(|error| panic!("{error}: {}", sql.lines().take(3).collect::<Vec<_>>().join(" ")));
}

async fn texts(connection: &mut PgConnection, query: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(connection).await.expect(query)
}

async fn number(connection: &mut PgConnection, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.expect(query)
}

/// Rows that break a constraint, by the constraint's name: foreign keys by a join, checks by their condition.
async fn broken(connection: &mut PgConnection) -> Vec<String> {
    let queries = "SELECT format('SELECT %L FROM %s c WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s)',
            conrelid::regclass::text || ' ' || conname, conrelid::regclass,
            (SELECT string_agg(format('c.%I IS NOT NULL', attname), ' AND ') FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)),
            confrelid::regclass,
            (SELECT string_agg(format('p.%I = c.%I', p.attname, c.attname), ' AND ')
             FROM unnest(conkey, confkey) AS k(own, target)
             JOIN pg_attribute c ON c.attrelid = conrelid AND c.attnum = k.own
             JOIN pg_attribute p ON p.attrelid = confrelid AND p.attnum = k.target))
        FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
        UNION ALL
        SELECT format('SELECT %L FROM %s WHERE NOT (%s)', conrelid::regclass::text || ' ' || conname, conrelid::regclass,
            pg_get_expr(conbin, conrelid))
        FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 AND connamespace::regnamespace::text !~ '^(pg_|information_)'
        UNION ALL
        SELECT format('SELECT %L FROM %s WHERE num_nulls(%s) NOT IN (0, %s)', conname, conrelid::regclass,
            (SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)),
            cardinality(conkey))
        FROM pg_constraint WHERE contype = 'f' AND confmatchtype = 'f'";
    let queries = texts(connection, queries).await;
    assert!(queries.len() > 5, "{queries:?}");
    texts(connection, &format!("{} ORDER BY 1", queries.join("\nUNION ALL\n"))).await
}

/// Rows and a digest of every table that holds any.
async fn digests(connection: &mut PgConnection) -> BTreeMap<String, (i64, String)> {
    let tables = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
        AND relnamespace::regnamespace::text !~ '^(pg_|information_)'";
    let mut digests = BTreeMap::new();
    for table in texts(connection, tables).await {
        let query = format!(
            "SELECT count(*), md5(coalesce(string_agg(line, '|' ORDER BY line COLLATE \"C\"), ''))
             FROM (SELECT t::text FROM ONLY {table} t) AS lines(line)"
        );
        let query = query.replace("ONLY parts", "parts");
        let digest: (i64, String) =
            sqlx::query_as(AssertSqlSafe(query)).fetch_one(&mut *connection).await.unwrap();
        digests.insert(table, digest);
    }
    digests
}

/// What is said of tables that are not full, by table.
fn unfilled(filled: &Filled) -> BTreeMap<&str, (u64, &str)> {
    let tables = filled.tables.iter();
    tables
        .filter_map(|table| Some((table.relation.as_str(), (table.rows, table.unfilled.as_deref()?))))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_feature_is_honoured_on_every_version() {
    for (version, programs) in versions::versions() {
        let server = Server::start(programs).await;
        let mut connection = server.database("features", FEATURES).await;
        let filled = server.fill("features", &Request { rows: ROWS, ..Request::default() }).await;
        let short = unfilled(&filled);
        println!("{version}: {short:#?}");
        assert_eq!(broken(&mut connection).await, Vec::<String>::new(), "{version}");
        let digests = digests(&mut connection).await;
        // What was told is what is there.
        for table in &filled.tables {
            let (rows, _) = digests[&table.relation];
            assert_eq!(rows.unsigned_abs(), table.rows, "{version}: {}", table.relation);
            assert_eq!(table.unfilled.is_some(), table.rows < ROWS, "{version}: {table:?}");
        }
        let expected = [
            ("checked.contradiction", 0, "checked.contradiction takes"),
            ("checked.impossible", 0, "nobody_passes"),
            ("keyed.few", 6, "few_pkey"),
            ("keyed.one", 1, "one_pkey"),
            ("linked.nobody", 0, "nobody_id_check"),
            ("linked.of_nobody", 0, "who_is_nobody"),
            ("parts.no_partition", 0, "no partition"),
        ];
        assert_eq!(short.len(), expected.len(), "{version}: {short:#?}");
        for (table, rows, why) in expected {
            let (found, sentence) = short[table];
            assert_eq!(found, rows, "{version}: {table}: {sentence}");
            assert!(sentence.contains(why), "{version}: {table}: {sentence}");
        }
        assert!(!filled.tables.iter().any(|table| table.relation == "kept.countries"));
        details(&mut connection, version).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_extensions_have_values() {
    let Some(programs) = versions::versions().remove(&15) else { return };
    let server = Server::start(programs).await;
    let mut connection = server.database("extended", include_str!("synthetic/extensions.sql")).await;
    let filled = server.fill("extended", &Request { rows: ROWS, ..Request::default() }).await;
    assert_eq!(unfilled(&filled), BTreeMap::new());
    assert_eq!(filled.tables.len(), 4);
    assert_eq!(
        number(&mut connection, "SELECT count(DISTINCT c) FROM kinds.extended WHERE b ? 'amber'")
            .await
            .signum(),
        1
    );
    let overlaps = "SELECT count(*) FROM keyed.shifts a JOIN keyed.shifts b ON tstzrange(a.starts, a.ends) && tstzrange(b.starts, b.ends)";
    assert_eq!(number(&mut connection, overlaps).await, 100);
}

/// What no constraint says.
async fn details(connection: &mut PgConnection, version: u32) {
    let yes = [
        ("generated", "SELECT bool_and(twice = value * 2) FROM served.plain"),
        ("identity", "SELECT min(id) = 100 AND max(id) = 1090 FROM served.always"),
        ("identity goes on", "SELECT nextval('served.always_id_seq') = 1100"),
        ("serial goes on", "SELECT nextval('served.plain_id_seq') = 101"),
        (
            "two tables of one sequence",
            "SELECT count(DISTINCT id) = 200 FROM (SELECT id FROM served.first UNION ALL SELECT id FROM served.second) AS ids",
        ),
        ("shared sequence goes on", "SELECT nextval('served.shared') > (SELECT max(id) FROM served.second)"),
        ("both partitions", "SELECT count(DISTINCT tableoid) = 2 FROM parts.by_range"),
        ("both hashes", "SELECT count(DISTINCT tableoid) = 2 FROM parts.by_hash"),
        ("both states", "SELECT count(DISTINCT state) = 2 FROM checked.states"),
        (
            "ways of one in three",
            "SELECT bool_or(k IS NOT NULL) AND bool_or(l IS NOT NULL) AND bool_or(m IS NOT NULL) FROM checked.shapes",
        ),
        ("keys that were there", "SELECT count(DISTINCT country) = 2 FROM kept.addresses"),
        ("some nulls", "SELECT count(*) FILTER (WHERE b IS NULL) BETWEEN 1 AND 60 FROM kinds.many"),
        (
            "popular parents",
            "SELECT max(c) >= 10 AND min(c) >= 1 FROM (SELECT count(*) AS c FROM linked.tree GROUP BY parent) AS x",
        ),
        ("both ends of a range", "SELECT bool_and(NOT isempty(j) AND NOT upper_inf(j)) FROM kinds.many"),
        ("composite", "SELECT bool_and((n).x IS NOT NULL AND (n).price > 0) FROM kinds.others"),
        (
            "letters of every kind",
            "SELECT bool_and(a <> lower(a) AND a <> upper(a) AND octet_length(a) > length(a)) AND bool_or(a <> initcap(a)) FROM kinds.texts",
        ),
        (
            "letters of every kind in short texts",
            "SELECT bool_or(b <> lower(b)) AND bool_or(b <> upper(b)) AND bool_or(octet_length(b) > 3) FROM kinds.texts",
        ),
        (
            "letters in JSON",
            "SELECT bool_and(m->>'label' <> lower(m->>'label')) FROM kinds.texts WHERE m IS NOT NULL",
        ),
        ("cycle", "SELECT count(DISTINCT other) > 5 FROM linked.left"),
    ];
    for (what, query) in yes {
        let answer: bool = sqlx::query_scalar(query).fetch_one(&mut *connection).await.expect(query);
        assert!(answer, "{version}: {what}");
    }
    // The first rows have every value that may be there.
    let first =
        "SELECT count(*) FROM (SELECT * FROM kinds.texts LIMIT 4) AS t WHERE num_nulls(e, f, h, i, m, n) > 0";
    assert_eq!(number(connection, first).await, 0, "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_alone_decides() {
    let (_, programs) = versions::versions().into_iter().next().unwrap();
    let server = Server::start(programs).await;
    let mut seen = Vec::new();
    for (name, seed, writers) in [("one", 7, 1), ("same", 7, 2), ("other", 8, 1)] {
        let mut connection = server.database(name, FEATURES).await;
        let rows_of =
            BTreeMap::from([("kinds.others".to_owned(), 60_000), ("linked.tree".to_owned(), 50_000)]);
        server.fill(name, &Request { rows: 40, seed, writers, rows_of }).await;
        seen.push(digests(&mut connection).await);
    }
    assert_eq!(seen[0]["kinds.others"].0, 60_000);
    assert_eq!(seen[0], seen[1]);
    let same: Vec<&str> =
        seen[0].keys().filter(|table| seen[0][*table] == seen[2][*table]).map(String::as_str).collect();
    // Counted through, or nothing to choose.
    let counted = [
        "checked.contradiction",
        "checked.impossible",
        "guarded.watched",
        "kept.countries",
        "keyed.bookings",
        "keyed.few",
        "keyed.one",
        "kinds.odd_ranges",
        "linked.nobody",
        "linked.of_nobody",
        "parts.by_hash",
        "parts.nested",
        "parts.no_partition",
        "served.first",
        "served.second",
    ];
    assert_eq!(same, counted);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_a_large_table_are_as_before() {
    let schema = "CREATE TABLE large (id integer PRIMARY KEY, name text NOT NULL, at timestamptz);
        CREATE UNIQUE INDEX large_name ON large (lower(name)); CREATE INDEX large_at ON large (at) WHERE at IS NOT NULL;
        CREATE INDEX left_broken ON large (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'left_broken'::regclass;
        COMMENT ON INDEX large_name IS 'kept';
        CREATE TABLE never (id integer PRIMARY KEY, CONSTRAINT no_large CHECK (id < 0 AND id % 2 = 5));
        CREATE TABLE twice (id integer PRIMARY KEY, a integer NOT NULL);
        CREATE UNIQUE INDEX few ON twice ((a / 100000000));";
    let indexes = "SELECT format('%s %s %s %s %s %s', indexrelid, indexrelid::regclass, indisvalid, indisready,
        pg_get_indexdef(indexrelid), obj_description(indexrelid)) FROM pg_index WHERE indrelid >= 16384 AND indexrelid::regclass::text !~ 'toast' ORDER BY 1";
    let (_, programs) = versions::versions().into_iter().next().unwrap();
    let server = Server::start(programs).await;
    let mut connection = server.database("large", schema).await;
    let before = texts(&mut connection, indexes).await;
    let filled = server.fill("large", &Request { rows: 150_000, ..Request::default() }).await;
    assert_eq!(texts(&mut connection, indexes).await, before);
    assert_eq!(before.len(), 7);
    let short = unfilled(&filled);
    assert_eq!(short.keys().collect::<Vec<_>>(), [&"public.never", &"public.twice"], "{short:?}");
    assert!(short["public.never"].1.contains("no_large"), "{short:?}");
    assert!(short["public.twice"].1.contains("few"), "{short:?}");
    // They hold every row, and only those.
    for (column, rows) in [("id", 150_000), ("lower(name)", 150_000)] {
        let query = format!("SELECT count(*) FROM (SELECT {column} FROM large ORDER BY {column}) AS sorted");
        execute(&mut connection, "SET enable_seqscan = off; SET enable_sort = off").await;
        assert_eq!(number(&mut connection, &query).await, rows, "{column}");
    }
    let refused = sqlx::query("INSERT INTO large VALUES (1, 'x')").execute(&mut connection).await;
    assert!(refused.unwrap_err().to_string().contains("large_pkey"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storefront_is_filled_and_a_second_time_nothing_is() {
    let schema = include_str!("../../fixtures/storefront/schema-2.3.sql");
    let (_, programs) = versions::versions().into_iter().next().unwrap();
    let server = Server::start(programs).await;
    let roles =
        "CREATE ROLE storefront_owner; CREATE ROLE storefront; CREATE ROLE fulfilment; CREATE ROLE partner;";
    let mut connection = server.database("storefront", &format!("{roles}{schema}")).await;
    let request = Request { rows: 1_000, ..Request::default() };
    let filled = server.fill("storefront", &request).await;
    assert_eq!(unfilled(&filled), BTreeMap::new());
    assert_eq!(filled.tables.iter().map(|table| table.rows).collect::<Vec<_>>(), [1_000; 7]);
    assert_eq!(broken(&mut connection).await, Vec::<String>::new());
    let popular = "SELECT max(orders)::int8 FROM (SELECT count(*) AS orders FROM orders GROUP BY customer_id) AS customers";
    assert!(number(&mut connection, popular).await > 20);
    let again = server.fill("storefront", &request).await;
    assert_eq!(again.tables, []);
    assert_eq!(number(&mut connection, "SELECT count(*) FROM tax_rates").await, 3);
}
