//! A schedule as a short text: `a.a.b!cut-after.a`.

use std::time::Duration;

use crate::error::Error;
use crate::run::{Choice, Thread};
use crate::trace::Fault;

const FAULTS: [(&str, Fault); 8] = [
    ("cut-before", Fault::CutBefore),
    ("cut-after", Fault::CutAfter),
    ("cut-in-answer", Fault::CutInAnswer),
    ("stalled", Fault::Stalled),
    ("terminated", Fault::Terminated),
    ("restarted", Fault::Restarted),
    ("dropped-before", Fault::DroppedBefore),
    ("dropped-after", Fault::DroppedAfter),
];

/// One letter per step, for the actor; its connection, unless it is the first; its fault, if it has one.
pub(crate) fn write(choices: &[Choice]) -> String {
    let steps = choices.iter().map(|Choice { thread, fault }| {
        let mut step = String::from(char::from(
            b'a' + u8::try_from(thread.actor % 26).unwrap_or(0),
        ));
        if thread.connection > 0 {
            step += &thread.connection.to_string();
        }
        if let Some(fault) = fault {
            step.push('!');
            match fault {
                Fault::Clock(ahead) => step += &format!("clock={}s", ahead.as_secs_f64()),
                _ => {
                    step += FAULTS
                        .iter()
                        .find(|(_, other)| other == fault)
                        .map_or("", |(name, _)| name)
                }
            }
        }
        step
    });
    steps.collect::<Vec<_>>().join(".")
}

/// A step of a replay string.
pub(crate) struct Given {
    /// As it is written.
    pub(crate) step: String,
    pub(crate) choice: Choice,
}

/// What [`write`] has written.
pub(crate) fn read(text: &str) -> Result<Vec<Given>, Error> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    // Points separate steps, and stand in the seconds of a clock.
    let mut steps: Vec<String> = Vec::new();
    for part in text.split('.') {
        match steps.last_mut() {
            Some(last) if part.starts_with(|first: char| first.is_ascii_digit()) => {
                *last += &format!(".{part}")
            }
            _ => steps.push(part.to_owned()),
        }
    }
    steps
        .into_iter()
        .map(|step| match read_step(&step) {
            Ok(choice) => Ok(Given { step, choice }),
            Err(why) => Err(Error::Replay { step, why }),
        })
        .collect()
}

fn read_step(step: &str) -> Result<Choice, &'static str> {
    let (who, fault) = step
        .split_once('!')
        .map_or((step, None), |(who, fault)| (who, Some(fault)));
    let actor = match who.bytes().next() {
        Some(letter @ b'a'..=b'z') => usize::from(letter - b'a'),
        _ => return Err("a step begins with the letter of an actor"),
    };
    let connection = match &who[1..] {
        "" => 0,
        number => number
            .parse()
            .map_err(|_| "after the letter comes the number of a connection")?,
    };
    let fault = match fault {
        None => None,
        Some(name) => Some(
            match name
                .strip_prefix("clock=")
                .and_then(|ahead| ahead.strip_suffix('s'))
            {
                Some(ahead) => {
                    let ahead = ahead
                        .parse()
                        .ok()
                        .and_then(|ahead| Duration::try_from_secs_f64(ahead).ok());
                    Fault::Clock(ahead.ok_or("the clock is ahead by seconds")?)
                }
                None => FAULTS
                    .iter()
                    .find(|(other, _)| *other == name)
                    .map(|(_, fault)| *fault)
                    .ok_or("there is no such fault")?,
            },
        ),
    };
    Ok(Choice {
        thread: Thread { actor, connection },
        fault,
    })
}

#[cfg(test)]
mod tests {
    use super::{Choice, read, write};

    #[test]
    fn what_is_written_is_read() {
        for text in [
            "a.b.a1.c",
            "a!cut-after.b",
            "a.b!clock=0.5s.a",
            "a!clock=60s",
        ] {
            let choices: Vec<Choice> = read(text)
                .unwrap()
                .iter()
                .map(|given| given.choice)
                .collect();
            assert_eq!(write(&choices), text);
        }
        for text in ["1", "a..b", "a!nothing", "ax", "a!clock=s"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
