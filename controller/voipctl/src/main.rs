//! voipctl, the operator's command.

use std::process::ExitCode;

use voipctl::cli;
use voipctl::console::Console;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = cli::parse();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    let mut console = Console::of_process(no_colour);
    voipctl::run(cli, &mut console, jiff::Timestamp::now())
        .await
        .into()
}
