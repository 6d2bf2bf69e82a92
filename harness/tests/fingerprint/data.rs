//! The data digest, and what tables lost.

use std::collections::BTreeSet;

use fulldress::fingerprint::data::{Columns, DataDigest};
use fulldress::fingerprint::lost::{Lost, lost};
use sqlx::PgConnection;

use crate::versions::versions;
use crate::{Server, block_on, run};

/// Tables with the types that are hard to hash.
const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN word AS text;
    CREATE TABLE t (id int, a text, b text, n numeric, f float8, big bigint, at timestamptz);
    INSERT INTO t SELECT g, 'a' || g, 'b' || g, g, g, g, '2020-01-01'::timestamptz + g * interval '1s' FROM generate_series(1, 200) g;
    CREATE TABLE kinds (i2 int2, r real, m money, c char(5), v varchar(7), k \"char\", n name, by bytea, ok boolean, d date, ti time, tz timetz,
        ts timestamp, iv interval, p point, l line, s lseg, bx box, pa path, po polygon, ci circle, ip inet, cd cidr, mac macaddr, bt bit(3),
        vb varbit, tv tsvector, tq tsquery, u uuid, x xml, j json, jb jsonb, jp jsonpath, ia int[], ta text[], nr numrange, nm nummultirange,
        rc regclass, ra regclass[], lsn pg_lsn, o oid, mo mood, ma mood[], pr pair, w word, acl aclitem, g int GENERATED ALWAYS AS (i2 * 2) STORED);
    INSERT INTO kinds VALUES (1, 1.5, 2, 'c', 'v', 'k', 'n', '\\x00ff', true, '2020-02-02', '10:00', '10:00+02', '2020-02-02 10:00', '1 mon 2 days',
        '(1,2)', '{1,2,3}', '[(1,2),(3,4)]', '((1,2),(3,4))', '((1,2),(3,4))', '((1,2),(3,4))', '<(1,2),3>', '10.0.0.1', '10.0.0.0/8',
        '08:00:2b:01:02:03', '101', '1', 'a:1 b', 'a & b', '00000000-0000-0000-0000-000000000001', NULL, '{\"a\": 1}', '{\"a\": 1}', '$.a',
        '{1,2}', '{a,NULL}', '[1,2)', '{[1,2)}', 'pg_class', '{pg_class}', '0/1', 7, 'ok', '{ok,sad}', '(1,x)', 'w', '=r/fulldress');
    CREATE TABLE nothing ();
    INSERT INTO nothing DEFAULT VALUES;
    CREATE TABLE parent (a int); CREATE TABLE child () INHERITS (parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);
    CREATE TABLE parts (a int) PARTITION BY LIST (a); CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
    INSERT INTO parts VALUES (1);
    CREATE TABLE \"Odd.Name\" (\"Odd Column\" int); INSERT INTO \"Odd.Name\" VALUES (1);
    DO $$ BEGIN EXECUTE 'CREATE TABLE broad (' || (SELECT string_agg('c' || g || ' int8', ', ') FROM generate_series(1, 1500) g) || ')'; END $$;
    INSERT INTO broad (c1, c900, c1500) VALUES (1, 2, 3), (4, 5, 6);
    CREATE TABLE sparse (a int, b int, c text, d text, e numeric, f numeric, g bool, h int2);
    INSERT INTO sparse VALUES (1, NULL, 'x', NULL, 1, NULL, true, 1), (NULL, 1, NULL, 'x', NULL, 1, NULL, NULL), (2, 2, '', '', 2, 2, false, 2);
    CREATE SCHEMA fulldress; CREATE TABLE fulldress.ours (a int)";

/// Changes that must be seen, and in how many rows of which table something is lost.
const LOSSES: &[(&str, &str, u64)] = &[
    ("UPDATE t SET a = b, b = a WHERE id = 7", "public.t", 1),
    ("UPDATE t SET a = x.a FROM t x WHERE t.id IN (3, 4) AND x.id = 7 - t.id", "public.t", 2),
    ("UPDATE t SET a = '' WHERE id = 7", "public.t", 1),
    ("UPDATE t SET n = 7.0 WHERE id = 7", "public.t", 1),
    ("UPDATE t SET f = '-0' WHERE id = 7", "public.t", 1),
    ("UPDATE t SET big = 4294967296 WHERE id = 1", "public.t", 1),
    ("UPDATE t SET at = at + interval '1 microsecond' WHERE id = 1", "public.t", 1),
    ("DELETE FROM t WHERE id > 190", "public.t", 10),
    ("UPDATE t SET a = NULL", "public.t", 200),
    ("ALTER TABLE t DROP COLUMN a", "public.t", 200),
    ("TRUNCATE t", "public.t", 200),
    ("DROP TABLE t", "public.t", 200),
    ("DROP TABLE nothing", "public.nothing", 1),
    ("DELETE FROM ONLY parent", "public.parent", 1),
    ("DELETE FROM child", "public.child", 1),
    ("DELETE FROM parts", "public.part_1", 1),
    ("DELETE FROM \"Odd.Name\"", "public.\"Odd.Name\"", 1),
    ("UPDATE t SET big = NULL WHERE id = 5", "public.t", 1),
    ("UPDATE t SET n = -n WHERE id = 5", "public.t", 1),
    ("UPDATE broad SET c900 = 7 - c900", "public.broad", 2),
    ("UPDATE broad SET c1 = c1500, c1500 = c1", "public.broad", 2),
    ("UPDATE sparse SET a = b, b = a WHERE b IS NULL", "public.sparse", 1),
    ("UPDATE sparse SET c = d, d = c WHERE c IS NULL", "public.sparse", 1),
    ("UPDATE sparse SET e = f, f = e WHERE f IS NULL", "public.sparse", 1),
    ("UPDATE sparse SET c = NULL WHERE c = ''", "public.sparse", 1),
    ("UPDATE sparse SET g = NULL, h = NULL WHERE a = 2", "public.sparse", 1),
    ("UPDATE sparse SET a = -1390177563 WHERE a IS NULL", "public.sparse", 1),
    ("UPDATE kinds SET mo = 'sad'", "public.kinds", 1),
    ("UPDATE kinds SET pr = '(1,)'", "public.kinds", 1),
    ("UPDATE kinds SET jb = '{\"a\": 1.0}'", "public.kinds", 1),
    ("UPDATE kinds SET rc = 'kinds'", "public.kinds", 1),
    ("UPDATE kinds SET ta = '{a,\"\"}'", "public.kinds", 1),
    ("UPDATE kinds SET acl = '=w/fulldress'", "public.kinds", 1),
    ("UPDATE kinds SET iv = '1 mon 48 hours'", "public.kinds", 1),
];

/// Changes after which every row of before is there.
const HARMLESS: &[&str] = &[
    "UPDATE t SET a = a",
    "ALTER TABLE t ADD COLUMN fresh int DEFAULT 5",
    "ALTER TABLE t DROP COLUMN a; ALTER TABLE t ADD COLUMN a text; UPDATE t SET a = 'a' || id",
    "CREATE TABLE public.fresh (a int)",
    "CREATE TYPE public.mood_2 AS ENUM ('ok', 'sad'); ALTER TABLE kinds ALTER COLUMN mo TYPE mood_2 USING mo::text::mood_2; \
     ALTER TABLE kinds ALTER COLUMN ma TYPE text[]; DROP TYPE mood; ALTER TYPE mood_2 RENAME TO mood; \
     ALTER TABLE kinds ALTER COLUMN ma TYPE mood[] USING ma::mood[]",
    "ALTER TABLE t RENAME TO u; CREATE TABLE public.t AS SELECT at, big, f, n, b, a, id FROM u ORDER BY id DESC; DROP TABLE u",
];

async fn read(connection: &mut PgConnection, columns: &Columns) -> DataDigest {
    DataDigest::read(connection, columns).await.unwrap()
}

/// Rows that a change of the second database loses, by the digests and row by row.
async fn after(before: &mut PgConnection, after: &mut PgConnection, change: &str) -> (Vec<String>, Lost) {
    run(after, "BEGIN").await;
    run(after, change).await;
    let columns = Columns::read(before).await.unwrap();
    let then = read(before, &columns).await;
    let differing = then.differing(&read(after, &columns).await);
    let lost = lost(before, after, &columns, &differing).await.unwrap();
    run(after, "ROLLBACK").await;
    (differing, lost)
}

#[test]
fn every_lost_value_is_counted() {
    for (version, programs) in versions() {
        block_on(async {
            let server = Server::start(&programs).await;
            let mut admin = server.connect("postgres").await;
            for database in ["before", "after"] {
                run(&mut admin, &format!("CREATE DATABASE {database}")).await;
                run(&mut server.connect(database).await, TABLES).await;
            }
            let mut one = server.connect("before").await;
            let mut other = server.connect("after").await;
            for (change, table, rows) in LOSSES {
                let (differing, lost) = after(&mut one, &mut other, change).await;
                assert_eq!(differing, [*table], "{version}: {change}");
                let rows = std::iter::once(((*table).to_owned(), *rows)).collect();
                let gone = change.starts_with("DROP").then(|| (*table).to_owned());
                let expected = Lost { rows, missing: gone.into_iter().collect::<BTreeSet<_>>() };
                assert_eq!(lost, expected, "{version}: {change}");
            }
            for change in HARMLESS {
                let (differing, lost) = after(&mut one, &mut other, change).await;
                assert_eq!(differing, [""; 0], "{version}: {change}");
                assert_eq!(lost, Lost::default(), "{version}: {change}");
            }
        });
    }
}

#[test]
fn duplicates_other_types_and_further_processes_are_seen_right() {
    let (_, programs) = versions().pop_last().unwrap();
    block_on(async {
        let server = Server::start(&programs).await;
        let mut admin = server.connect("postgres").await;
        for database in ["before", "after"] {
            run(&mut admin, &format!("CREATE DATABASE {database}")).await;
            let sql = "CREATE TABLE t (a int, b text); INSERT INTO t SELECT g / 3, 'x' FROM generate_series(0, 299999) g; ANALYZE t";
            run(&mut server.connect(database).await, sql).await;
        }
        let mut one = server.connect("before").await;
        let mut other = server.connect("after").await;
        let columns = Columns::read(&mut one).await.unwrap();
        // With one process and with several it is the same digest.
        let digest = read(&mut one, &columns).await;
        assert_eq!(digest, DataDigest::read_gently(&mut one, &columns).await.unwrap());
        assert_eq!(digest.rows().collect::<Vec<_>>(), [("public.t", 300_000)]);

        let swap = "DELETE FROM t WHERE ctid IN (SELECT min(ctid) FROM t WHERE a IN (5, 6) GROUP BY a); INSERT INTO t VALUES (7, 'x'), (7, 'x')";
        let (differing, lost) = after(&mut one, &mut other, swap).await;
        assert_eq!(differing, ["public.t"]);
        assert_eq!(lost.rows.get("public.t"), Some(&2), "of equal rows, as many as are missing");

        // Another type is told as a difference, and is no loss where it holds the same values.
        let (differing, lost) = after(&mut one, &mut other, "ALTER TABLE t ALTER COLUMN a TYPE bigint").await;
        assert_eq!(differing, ["public.t"]);
        assert_eq!(lost, Lost::default());
        let narrow = "ALTER TABLE t ALTER COLUMN b TYPE int USING CASE WHEN a = 5 THEN 0 END";
        let (_, lost) = after(&mut one, &mut other, narrow).await;
        assert_eq!(lost.rows.get("public.t"), Some(&300_000));
    });
}
