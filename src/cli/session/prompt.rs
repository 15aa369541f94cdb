//! Secrets that a person is asked for: on the terminal, without showing them, or on stdin.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::signal;

/// Of one line.
const LINE_MAX: usize = 64 * 1024;

/// Asks at the terminal of this process; what is typed is not shown. `None` where there is none. `Interrupted`: Ctrl-C.
pub(super) fn ask(what: &str) -> Option<io::Result<Secret>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let before = tcgetattr(&terminal).ok()?;
    Some(Quiet::new(terminal, before).and_then(|quiet| typed(quiet, what)))
}

/// A terminal that shows nothing, until this is dropped or a signal ends the process.
struct Quiet {
    terminal: File,
    before: Termios,
    signals: Handle,
}

impl Quiet {
    fn new(terminal: File, before: Termios) -> io::Result<Self> {
        let mut signals = Signals::new(signal::ending())?;
        let (handle, shown, mut same) = (signals.handle(), before.clone(), terminal.try_clone()?);
        let end = move || {
            for signal in &mut signals {
                restore(&mut same, &shown);
                let _ = emulate_default_handler(signal);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(end)?;
        Ok(Self { terminal, before, signals: handle })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        restore(&mut self.terminal, &self.before);
        self.signals.close();
    }
}

fn restore(terminal: &mut File, before: &Termios) {
    let _ = tcsetattr(&*terminal, OptionalActions::Now, before);
    let _ = terminal.write_all(b"\n");
}

fn typed(mut quiet: Quiet, what: &str) -> io::Result<Secret> {
    let mut silent = quiet.before.clone();
    // Keys that would end this process must not leave the terminal silent: they are read as what they are.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    tcsetattr(&quiet.terminal, OptionalActions::Flush, &silent)?;
    write!(quiet.terminal, "{what}: ")?;
    let (mut line, mut byte) = (Zeroizing::new(Vec::with_capacity(256)), Zeroizing::new([0_u8]));
    loop {
        let end = quiet.terminal.read(&mut byte[..])? == 0;
        match byte[0] {
            _ if end => break,
            b'\r' | b'\n' | 0x04 => break,
            0x03 | 0x1c => return Err(io::ErrorKind::Interrupted.into()),
            0x08 | 0x7f => {
                // As many bytes as the last character has.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            0x15 => line.clear(),
            byte => line.push(byte),
        }
        if line.len() > LINE_MAX {
            break;
        }
    }
    text(&line)
}

/// A line of stdin.
pub(super) fn read() -> io::Result<Secret> {
    let (mut line, mut byte) = (Zeroizing::new(Vec::with_capacity(256)), Zeroizing::new([0_u8]));
    // Byte by byte: what follows is for others.
    while line.len() <= LINE_MAX && io::stdin().lock().read(&mut byte[..])? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    text(line.strip_suffix(b"\r").unwrap_or(&line))
}

fn text(line: &[u8]) -> io::Result<Secret> {
    if line.len() > LINE_MAX {
        return Err(io::Error::other("this is longer than 64 KiB"));
    }
    let text = std::str::from_utf8(line).map_err(|_| io::Error::other("this is not UTF-8 text"))?;
    if text.chars().any(char::is_control) {
        return Err(io::Error::other("this has control characters, as keys such as the arrows make"));
    }
    Ok(Secret::new(text.to_owned()))
}
