-- What the statements of locks.txt work on.
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80) NOT NULL, mail text UNIQUE, born timestamp);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers,
    state text, placed timestamp, seen timestamptz, total numeric(10, 2), feeling mood, amount positive,
    remark varchar(60), weight numeric(10, 2));
CREATE INDEX orders_state ON orders (state);
CREATE INDEX orders_placed ON orders (placed);
CREATE UNIQUE INDEX orders_once ON orders (id, customer_id);
CREATE TABLE items (id bigserial PRIMARY KEY, order_id bigint REFERENCES orders ON DELETE CASCADE, note text);
CREATE TABLE plain (a int, b text, c int);
CREATE TABLE heir (a int, b text, c int);
CREATE TABLE logs (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE logs_2024 PARTITION OF logs FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE INDEX logs_at ON logs (at);
CREATE TABLE archive (LIKE orders INCLUDING ALL);
CREATE TABLE nodes (id int PRIMARY KEY, parent int REFERENCES nodes);
CREATE VIEW open_orders AS SELECT id, customer_id FROM orders WHERE state = 'open';
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, sum(total) AS total FROM orders GROUP BY customer_id;
CREATE UNIQUE INDEX totals_customer ON totals (customer_id);
CREATE TABLE events (id int NOT NULL, at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE INDEX events_id ON events (id);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE events_2026 (id int NOT NULL, at date NOT NULL, what text);
CREATE SEQUENCE numbers;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION widen() RETURNS void LANGUAGE plpgsql AS
$$ BEGIN EXECUTE 'ALTER TABLE plain ADD COLUMN w int'; END $$;
CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY own_orders ON orders USING (true);
CREATE RULE no_delete AS ON DELETE TO plain DO INSTEAD NOTHING;
CREATE STATISTICS orders_stats ON state, placed FROM orders;
ALTER TABLE customers ADD CONSTRAINT named CHECK (name <> '') NOT VALID;
ALTER TABLE orders ADD CONSTRAINT total_set CHECK (total IS NOT NULL) NOT VALID;
ALTER TABLE items ADD CONSTRAINT items_customer FOREIGN KEY (order_id) REFERENCES orders NOT VALID;
CREATE ROLE trace_reader;
CREATE SCHEMA other;
CREATE TABLE other.notes (id int PRIMARY KEY, "Text" text);
CREATE TABLE "Mixed Case" (id int PRIMARY KEY);
INSERT INTO customers SELECT n, 'customer ' || n, 'c' || n, '2020-01-01' FROM generate_series(1, 300) n;
INSERT INTO orders SELECT n, 1 + n % 300, 'open', '2025-01-01', '2025-01-01', n, 'ok', n, 'remark', n FROM generate_series(1, 1000) n;
INSERT INTO items (order_id, note) SELECT n, 'note' FROM generate_series(1, 1000) n;
INSERT INTO plain SELECT n, 'b', n FROM generate_series(1, 500) n;
INSERT INTO events SELECT n, '2024-06-01'::date + n, 'seen' FROM generate_series(1, 400) n;
REFRESH MATERIALIZED VIEW totals;
ANALYZE;
