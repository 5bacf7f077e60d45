//! What the rendered files must contain.

use super::*;
