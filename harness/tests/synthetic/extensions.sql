-- What needs extensions of the distribution, and a server with libxml.

CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE EXTENSION btree_gist;
CREATE EXTENSION ltree;
CREATE EXTENSION cube;

CREATE SCHEMA keyed;
CREATE TABLE keyed.rooms (room integer NOT NULL, during tstzrange NOT NULL, EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE keyed.shifts (
    worker integer NOT NULL, starts timestamptz NOT NULL, ends timestamptz NOT NULL, CHECK (starts < ends),
    EXCLUDE USING gist (worker WITH =, tstzrange(starts, ends) WITH &&)
);
CREATE TABLE keyed.names (name citext PRIMARY KEY, mail citext NOT NULL CHECK (mail ~ '^[a-z]+@[a-z]+$'));

CREATE SCHEMA kinds;
CREATE TABLE kinds.extended (a citext NOT NULL, b hstore NOT NULL, c ltree NOT NULL, d cube NOT NULL, e xml NOT NULL, f citext[]);
