-- Every statement runs on the plain disk and on the mount; {t}, {u}, {p}, {x}, {d} are tables, {renamed} a name without one.
-- A line that starts with `--!` names what the statement after it may answer with instead: an error code, the same on both.
-- `--@ restart` kills the engine over the mount, and attaches the plain tables again; all have their first definition then.

-- Inserts: several parts, several partitions.
INSERT INTO {t} SELECT * FROM source WHERE id < 1000 ORDER BY id;
INSERT INTO {t} SELECT * FROM source WHERE id >= 1000 AND id < 1500 ORDER BY id;
INSERT INTO {t} SELECT * FROM source WHERE id >= 1500 AND id < 1600 ORDER BY id;
INSERT INTO {u} SELECT * FROM source WHERE id >= 2000 AND id < 2600 ORDER BY id;
-- The deduplication window: the same block again adds nothing.
INSERT INTO {d} SELECT * FROM source WHERE id < 100 ORDER BY id;
INSERT INTO {d} SELECT * FROM source WHERE id < 100 ORDER BY id;
INSERT INTO {d} SELECT * FROM source WHERE id >= 100 AND id < 200 ORDER BY id;
SELECT throwIf(count() != 200) FROM {d};
-- A statement that fails half-way leaves nothing.
--! 395
INSERT INTO {t} SELECT id, k, day, if(throwIf(id = 1990) = 0, name, ''), v, tags, n, m FROM source WHERE id >= 1900 AND id < 2000 ORDER BY id SETTINGS max_block_size = 10;

-- Merges: vertical, with projections and skip indexes.
OPTIMIZE TABLE {t} PARTITION 202401 FINAL;
OPTIMIZE TABLE {t} FINAL;
INSERT INTO {t} SELECT * FROM source WHERE id >= 3000 AND id < 3200 ORDER BY id;

-- Mutations: most files of a part are hard links.
ALTER TABLE {t} UPDATE v = v * 2 WHERE k % 3 = 0;
ALTER TABLE {t} UPDATE name = concat(name, '!') IN PARTITION 202402 WHERE id % 7 = 1;
ALTER TABLE {t} DELETE WHERE id % 11 = 4;
DELETE FROM {t} WHERE id % 13 = 5;
ALTER TABLE {t} APPLY DELETED MASK;
CHECK TABLE {t};

-- Lightweight updates: patch parts.
INSERT INTO {p} SELECT * FROM source WHERE id < 1200 ORDER BY id;
INSERT INTO {p} SELECT * FROM source WHERE id >= 1200 AND id < 1700 ORDER BY id;
UPDATE {p} SET v = v + 1000 WHERE k % 5 = 2;
UPDATE {p} SET name = 'patched' WHERE id % 10 = 3;
OPTIMIZE TABLE {p} PARTITION 202401 FINAL;
UPDATE {p} SET n = NULL WHERE id % 4 = 0;
DELETE FROM {p} WHERE id % 17 = 3 SETTINGS lightweight_delete_mode = 'lightweight_update';
ALTER TABLE {p} APPLY PATCHES;
OPTIMIZE TABLE {p} FINAL;

-- Projections and skip indexes come and go.
ALTER TABLE {t} ADD PROJECTION late (SELECT day, max(v) GROUP BY day);
ALTER TABLE {t} MATERIALIZE PROJECTION late;
ALTER TABLE {t} CLEAR PROJECTION by_k IN PARTITION 202401;
ALTER TABLE {t} DROP PROJECTION late;
ALTER TABLE {t} ADD INDEX iv v TYPE minmax GRANULARITY 1;
ALTER TABLE {t} MATERIALIZE INDEX iv;
ALTER TABLE {t} CLEAR INDEX iv IN PARTITION 202402;
ALTER TABLE {t} DROP INDEX iv;

-- Parts and partitions: away and back.
ALTER TABLE {t} DETACH PARTITION 202402;
ALTER TABLE {t} ATTACH PARTITION 202402;
ALTER TABLE {t} DETACH PARTITION 202401;
INSERT INTO {t} SELECT * FROM source WHERE id >= 3200 AND id < 3300 ORDER BY id;
ALTER TABLE {t} ATTACH PARTITION 202401;
ALTER TABLE {t} DETACH PARTITION 202403;
ALTER TABLE {t} DROP DETACHED PARTITION 202403 SETTINGS allow_drop_detached = 1;
ALTER TABLE {t} DROP PARTITION 202404;
INSERT INTO {t} SELECT * FROM source WHERE id >= 3300 AND id < 3700 ORDER BY id;

-- Between tables: parts of one become parts of another, by hard links.
ALTER TABLE {u} ATTACH PARTITION 202401 FROM {t};
ALTER TABLE {u} REPLACE PARTITION 202402 FROM {t};
ALTER TABLE {t} MOVE PARTITION 202403 TO TABLE {u};
ALTER TABLE {u} MOVE PARTITION 202404 TO TABLE {t};
ALTER TABLE {t} DROP PARTITION 202401;
OPTIMIZE TABLE {u} FINAL;
ALTER TABLE {t} REPLACE PARTITION 202401 FROM {u};
ALTER TABLE {t} UPDATE v = v + 1 WHERE id % 2 = 0;
ALTER TABLE {u} DELETE WHERE id % 19 = 1;

-- Frozen.
ALTER TABLE {t} FREEZE WITH NAME 'whole';
ALTER TABLE {t} FREEZE PARTITION 202401 WITH NAME 'one';
ALTER TABLE {t} DELETE WHERE id % 23 = 2;
ALTER TABLE {t} UNFREEZE PARTITION 202401 WITH NAME 'whole';
ALTER TABLE {t} UNFREEZE WITH NAME 'whole';

-- Columns.
ALTER TABLE {t} ADD COLUMN extra UInt64 DEFAULT id * 3 AFTER name;
ALTER TABLE {t} MATERIALIZE COLUMN extra;
INSERT INTO {t} (id, k, day, name, v, tags, n, m) SELECT * FROM source WHERE id >= 3700 AND id < 3800 ORDER BY id;
ALTER TABLE {t} MODIFY COLUMN extra String;
ALTER TABLE {t} MODIFY COLUMN v CODEC(Gorilla, ZSTD(3));
ALTER TABLE {t} RENAME COLUMN extra TO other;
ALTER TABLE {t} CLEAR COLUMN other IN PARTITION 202402;
OPTIMIZE TABLE {t} FINAL;
ALTER TABLE {t} DROP COLUMN other;
ALTER TABLE {t} MODIFY COMMENT 'altered';
ALTER TABLE {t} MODIFY SETTING min_rows_for_wide_part = 150, min_bytes_for_wide_part = 1;
INSERT INTO {t} SELECT * FROM source WHERE id >= 3800 AND id < 4000 ORDER BY id;
ALTER TABLE {t} RESET SETTING min_rows_for_wide_part;
OPTIMIZE TABLE {p} FINAL DEDUPLICATE BY k, id, day;

-- Rows and columns that have lived long enough.
INSERT INTO {x} SELECT * FROM source WHERE id < 900 ORDER BY id;
INSERT INTO {x} SELECT id, k, toDate('2099-01-01') + id % 40, name, v, tags, n, m FROM source WHERE id >= 900 AND id < 1300 ORDER BY id;
OPTIMIZE TABLE {x} FINAL;
ALTER TABLE {x} MODIFY COLUMN n TTL day - INTERVAL 100 YEAR;
ALTER TABLE {x} MATERIALIZE TTL;
OPTIMIZE TABLE {x} FINAL;
ALTER TABLE {x} MODIFY TTL day + INTERVAL 1 DAY DELETE WHERE k % 2 = 0, day - INTERVAL 100 YEAR RECOMPRESS CODEC(ZSTD(9));
INSERT INTO {x} SELECT * FROM source WHERE id >= 1300 AND id < 1500 ORDER BY id;
OPTIMIZE TABLE {x} FINAL;
ALTER TABLE {x} REMOVE TTL;

-- Tables as a whole.
EXCHANGE TABLES {t} AND {u};
INSERT INTO {u} SELECT * FROM source WHERE id >= 4000 AND id < 4100 ORDER BY id;
EXCHANGE TABLES {t} AND {u};

-- Names.
RENAME TABLE {t} TO {renamed};
INSERT INTO {renamed} SELECT * FROM source WHERE id >= 4100 AND id < 4150 ORDER BY id;
ALTER TABLE {renamed} UPDATE v = v - 1 WHERE id % 3 = 1;
OPTIMIZE TABLE {renamed} FINAL;
RENAME TABLE {renamed} TO {t};
RENAME TABLE {t} TO {renamed}, {u} TO {t}, {renamed} TO {u};
RENAME TABLE {t} TO {renamed}, {u} TO {t}, {renamed} TO {u};
DETACH TABLE {t};
ATTACH TABLE {t};
INSERT INTO {t} SELECT * FROM source WHERE id >= 4150 AND id < 4200 ORDER BY id;
DROP TABLE {u};
UNDROP TABLE {u};
INSERT INTO {u} SELECT * FROM source WHERE id >= 4200 AND id < 4250 ORDER BY id;

-- Moves by age: there is one disk, so they have nothing to do and must not do it.
--! 479
ALTER TABLE {x} MOVE PARTITION 202401 TO DISK '{disk}';
ALTER TABLE {x} MODIFY TTL day + INTERVAL 1 DAY TO DISK '{disk}';
INSERT INTO {x} SELECT * FROM source WHERE id >= 1500 AND id < 1600 ORDER BY id;
OPTIMIZE TABLE {x} FINAL;
--! 450
ALTER TABLE {x} MODIFY TTL day + INTERVAL 1 DAY TO DISK 'elsewhere';
ALTER TABLE {x} REMOVE TTL;

-- What a restart must not change: parts, detached and frozen ones, masks, patches, the memory of what was inserted.
INSERT INTO {p} SELECT * FROM source WHERE id >= 1700 AND id < 1900 ORDER BY id;
UPDATE {p} SET name = 'before the restart' WHERE id % 6 = 1;
DELETE FROM {t} WHERE id % 29 = 7;
ALTER TABLE {t} DETACH PARTITION 202403;
ALTER TABLE {t} FREEZE WITH NAME 'kept';
--@ restart
INSERT INTO {d} SELECT * FROM source WHERE id < 100 ORDER BY id;
INSERT INTO {d} SELECT * FROM source WHERE id >= 100 AND id < 200 ORDER BY id;
INSERT INTO {d} SELECT * FROM source WHERE id >= 200 AND id < 300 ORDER BY id;
SELECT throwIf(count() != 300) FROM {d};
ALTER TABLE {t} ATTACH PARTITION 202403;
UPDATE {p} SET v = 0 WHERE id % 9 = 4;
OPTIMIZE TABLE {p} FINAL;
OPTIMIZE TABLE {t} FINAL;
ALTER TABLE {t} UNFREEZE WITH NAME 'kept';
ALTER TABLE {t} UPDATE v = v + 3 WHERE id % 4 = 1;
--@ restart
INSERT INTO {d} SELECT * FROM source WHERE id >= 200 AND id < 300 ORDER BY id;
SELECT throwIf(count() != 300) FROM {d};
OPTIMIZE TABLE {t} FINAL;

-- Nothing is left, and begins again: block numbers too, after a restart.
TRUNCATE TABLE {t};
TRUNCATE TABLE {d};
INSERT INTO {t} SELECT * FROM source WHERE id >= 4300 AND id < 4400 ORDER BY id;
INSERT INTO {d} SELECT * FROM source WHERE id >= 200 AND id < 300 ORDER BY id;
ALTER TABLE {t} DELETE WHERE 1;
INSERT INTO {t} SELECT * FROM source WHERE id >= 4400 AND id < 4500 ORDER BY id;
TRUNCATE TABLE {t};
