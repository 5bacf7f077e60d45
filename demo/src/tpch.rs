//! TPC-H: the eight tables in plain ClickHouse DDL, their rows as CSV, and five of the queries.
//!
//! The queries order their rows completely, so that two right answers are equal as text.

use std::fmt::Display;

use tpchgen::csv::{CustomerCsv, LineItemCsv, NationCsv, OrderCsv, PartCsv, PartSuppCsv, RegionCsv, SupplierCsv};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

pub const DATABASE: &str = "tpch";

/// Few large INSERTs make few parts.
const ROWS_PER_INSERT: u64 = 400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Region,
    Nation,
    Supplier,
    Part,
    PartSupp,
    Customer,
    Orders,
    LineItem,
}

impl Table {
    pub const ALL: [Self; 8] = [
        Self::Region,
        Self::Nation,
        Self::Supplier,
        Self::Part,
        Self::PartSupp,
        Self::Customer,
        Self::Orders,
        Self::LineItem,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Customer => "customer",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// What stands between the brackets of CREATE TABLE, and the sorting key.
    fn definition(self) -> (&'static str, &'static str) {
        match self {
            Self::Region => ("r_regionkey Int32, r_name String, r_comment String", "r_regionkey"),
            Self::Nation => ("n_nationkey Int32, n_name String, n_regionkey Int32, n_comment String", "n_nationkey"),
            Self::Supplier => (
                "s_suppkey Int32, s_name String, s_address String, s_nationkey Int32, s_phone String, \
                 s_acctbal Decimal(15, 2), s_comment String",
                "s_suppkey",
            ),
            Self::Part => (
                "p_partkey Int32, p_name String, p_mfgr String, p_brand String, p_type String, p_size Int32, \
                 p_container String, p_retailprice Decimal(15, 2), p_comment String",
                "p_partkey",
            ),
            Self::PartSupp => (
                "ps_partkey Int32, ps_suppkey Int32, ps_availqty Int32, ps_supplycost Decimal(15, 2), ps_comment String",
                "(ps_partkey, ps_suppkey)",
            ),
            Self::Customer => (
                "c_custkey Int32, c_name String, c_address String, c_nationkey Int32, c_phone String, \
                 c_acctbal Decimal(15, 2), c_mktsegment String, c_comment String",
                "c_custkey",
            ),
            Self::Orders => (
                "o_orderkey Int32, o_custkey Int32, o_orderstatus String, o_totalprice Decimal(15, 2), o_orderdate Date, \
                 o_orderpriority String, o_clerk String, o_shippriority Int32, o_comment String",
                "o_orderkey",
            ),
            Self::LineItem => (
                "l_orderkey Int32, l_partkey Int32, l_suppkey Int32, l_linenumber Int32, l_quantity Decimal(15, 2), \
                 l_extendedprice Decimal(15, 2), l_discount Decimal(15, 2), l_tax Decimal(15, 2), l_returnflag String, \
                 l_linestatus String, l_shipdate Date, l_commitdate Date, l_receiptdate Date, l_shipinstruct String, \
                 l_shipmode String, l_comment String",
                "(l_orderkey, l_linenumber)",
            ),
        }
    }

    pub fn create_sql(self) -> String {
        let (columns, key) = self.definition();
        format!("CREATE TABLE {DATABASE}.{} ({columns}) ENGINE = MergeTree ORDER BY {key}", self.name())
    }

    pub fn insert_sql(self) -> String {
        format!("INSERT INTO {DATABASE}.{} FORMAT CSV", self.name())
    }

    pub fn count_sql(self) -> String {
        format!("SELECT count() FROM {DATABASE}.{}", self.name())
    }

    /// About right: the number of line items varies with the orders.
    pub fn expected_rows(self, scale: f64) -> u64 {
        let at_scale_one = match self {
            Self::Region => return 5,
            Self::Nation => return 25,
            Self::Supplier => 10_000.0,
            Self::Part => 200_000.0,
            Self::PartSupp => 800_000.0,
            Self::Customer => 150_000.0,
            Self::Orders => 1_500_000.0,
            Self::LineItem => 6_000_000.0,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a row count far below 2^53")]
        let rows = (at_scale_one * scale).round() as u64;
        rows
    }

    /// Into how many INSERTs the table goes.
    pub fn batches(self, scale: f64) -> i32 {
        i32::try_from(self.expected_rows(scale).div_ceil(ROWS_PER_INSERT).max(1)).unwrap_or(i32::MAX)
    }

    /// Gives each row of one batch (counted from 1) to `emit`, as a CSV line without its end; stops when that says false.
    pub fn generate(self, scale: f64, batch: i32, batches: i32, mut emit: impl FnMut(&dyn Display) -> bool) {
        macro_rules! rows {
            ($generator:ident, $csv:ident) => {
                $generator::new(scale, batch, batches).iter().all(|row| emit(&$csv::new(row)))
            };
        }
        match self {
            Self::Region => rows!(RegionGenerator, RegionCsv),
            Self::Nation => rows!(NationGenerator, NationCsv),
            Self::Supplier => rows!(SupplierGenerator, SupplierCsv),
            Self::Part => rows!(PartGenerator, PartCsv),
            Self::PartSupp => rows!(PartSuppGenerator, PartSuppCsv),
            Self::Customer => rows!(CustomerGenerator, CustomerCsv),
            Self::Orders => rows!(OrderGenerator, OrderCsv),
            Self::LineItem => rows!(LineItemGenerator, LineItemCsv),
        };
    }
}

pub struct Query {
    pub name: &'static str,
    pub sql: &'static str,
}

pub const QUERIES: [Query; 5] = [
    Query {
        name: "Q1",
        sql: "SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price, \
              sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price, \
              sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge, avg(l_quantity) AS avg_qty, \
              avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count() AS count_order \
              FROM tpch.lineitem WHERE l_shipdate <= toDate('1998-12-01') - INTERVAL 90 DAY \
              GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus",
    },
    Query {
        name: "Q3",
        sql: "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority \
              FROM tpch.lineitem JOIN tpch.orders ON l_orderkey = o_orderkey JOIN tpch.customer ON c_custkey = o_custkey \
              WHERE c_mktsegment = 'BUILDING' AND o_orderdate < toDate('1995-03-15') AND l_shipdate > toDate('1995-03-15') \
              GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate, l_orderkey LIMIT 10",
    },
    // The nations are compared by a difference: with an equality, ClickHouse 26.7 may join all customers with all suppliers of
    // their nation first, which takes minutes at scale 0.1.
    Query {
        name: "Q5",
        sql: "SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue FROM tpch.lineitem \
              JOIN tpch.orders ON l_orderkey = o_orderkey JOIN tpch.customer ON c_custkey = o_custkey \
              JOIN tpch.supplier ON l_suppkey = s_suppkey \
              JOIN tpch.nation ON s_nationkey = n_nationkey JOIN tpch.region ON n_regionkey = r_regionkey \
              WHERE r_name = 'ASIA' AND c_nationkey - s_nationkey = 0 AND o_orderdate >= toDate('1994-01-01') AND o_orderdate < toDate('1995-01-01') \
              GROUP BY n_name ORDER BY revenue DESC, n_name",
    },
    Query {
        name: "Q6",
        sql: "SELECT sum(l_extendedprice * l_discount) AS revenue FROM tpch.lineitem \
              WHERE l_shipdate >= toDate('1994-01-01') AND l_shipdate < toDate('1995-01-01') \
              AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    },
    Query {
        name: "Q10",
        sql: "SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address, c_phone, \
              c_comment FROM tpch.lineitem JOIN tpch.orders ON l_orderkey = o_orderkey \
              JOIN tpch.customer ON c_custkey = o_custkey JOIN tpch.nation ON c_nationkey = n_nationkey \
              WHERE o_orderdate >= toDate('1993-10-01') AND o_orderdate < toDate('1994-01-01') AND l_returnflag = 'R' \
              GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment \
              ORDER BY revenue DESC, c_custkey LIMIT 20",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn count(table: Table, scale: f64, batches: i32) -> u64 {
        let mut rows = 0;
        for batch in 1..=batches {
            table.generate(scale, batch, batches, |_| {
                rows += 1;
                true
            });
        }
        rows
    }

    #[test]
    fn batches_add_up_to_the_table() {
        for table in Table::ALL {
            let batches = if matches!(table, Table::Region | Table::Nation) { 1 } else { 3 };
            let rows = count(table, 0.002, batches);
            assert_eq!(rows, count(table, 0.002, 1), "{}", table.name());
            let expected = table.expected_rows(0.002);
            assert!(
                rows.abs_diff(expected) * 20 <= expected,
                "{}: {rows} rows, about {expected} expected",
                table.name()
            );
        }
    }
}
