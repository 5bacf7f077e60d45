//! What the schema cannot see. Pure.

use crate::conditions::Problem;
use crate::crd::{ComputeGroup, Warehouse};
use crate::group::dereference::Seen;

/// The group's warehouse, if it can be built upon.
pub fn validate<'a>(group: &ComputeGroup, seen: &'a Seen) -> Result<&'a Warehouse, Problem> {
    let name = &group.spec.warehouse;
    let Some(warehouse) = &seen.warehouse else {
        let message = format!("spec.warehouse: there is no Warehouse '{name}' in this namespace");
        return Err(Problem::new("WarehouseNotFound", message));
    };
    if warehouse.metadata.deletion_timestamp.is_some() {
        let message = format!("spec.warehouse: Warehouse '{name}' is being deleted; delete this group, too");
        return Err(Problem::new("WarehouseDeleting", message));
    }
    // What is known to be wrong there would be wrong here: its objects have not been made.
    let conditions = warehouse.status.iter().flat_map(|status| &status.conditions);
    if let Some(bad) = conditions.into_iter().find(|one| one.type_ == "Degraded" && one.status == "True") {
        let message = format!("spec.warehouse: Warehouse '{name}' is not well: {}", bad.message);
        return Err(Problem::new("WarehouseDegraded", message));
    }
    Ok(warehouse)
}
