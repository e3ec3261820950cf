//! voipctl, the operator's command.

use std::process::ExitCode;

use voipctl::cli;
use voipctl::console::{self, Console};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = cli::parse();
    let variable = |name: &str| std::env::var_os(name);
    let no_colour = console::is_plain(variable("NO_COLOR").as_deref(), variable("TERM").as_deref());
    let mut console = Console::of_process(no_colour);
    voipctl::run(cli, &mut console, jiff::Timestamp::now())
        .await
        .into()
}
