//! `tailkeep print-config`: what is in effect, what the defaults are, or what to begin with.

use super::configuration::{load, print_diagnostics};
use super::{Failure, PrintConfigArguments, print_result};
use crate::config::render::render;
use crate::config::{DEFAULTS, EXAMPLE};

pub fn print_config(arguments: &PrintConfigArguments) -> Result<(), Failure> {
    if arguments.defaults {
        return print_result(DEFAULTS);
    }
    if arguments.example {
        return print_result(EXAMPLE);
    }
    let loaded = load(&arguments.configuration)?;
    print_diagnostics(&loaded.remarks);
    print_result(&render(&loaded.config))
}
