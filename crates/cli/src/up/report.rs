//! The table at the end of a start.

use comfy_table::{Table, presets::NOTHING};

use crate::platform::{Platform, Running};

/// Prints where everything is and how to stop it.
pub(crate) fn print(platform: &Platform, running: &Running) {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let kubeconfig = platform.kubeconfig();
    if let Some(page) = &running.page {
        table.add_row(["Product page", page]);
    }
    table.add_row([
        "Ingress gateway",
        &format!("http://127.0.0.1:{}", running.ingress_port),
    ]);
    table.add_row([
        "Kubernetes API",
        &format!("https://127.0.0.1:{}", running.api_port),
    ]);
    table.add_row(["Kubeconfig", &kubeconfig.display().to_string()]);
    table.add_row([
        "Try",
        &format!("kubectl --kubeconfig {} get pods", kubeconfig.display()),
    ]);
    table.add_row([
        "Stop",
        &format!(
            "Ctrl-C, or meltemi down --state {}",
            platform.directory().display()
        ),
    ]);
    println!("\n{}", table.trim_fmt());
}
