//! The known word that an unknown one was probably meant to be.

/// Words further apart than a third of their letters are not the same word misspelt.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // Longer than any key of ours, and not worth the quadratic walk.
    if word.len() > 48 {
        return None;
    }
    let flat = |word: &str| word.to_ascii_lowercase().replace(['-', ' '], "_");
    let word = flat(word);
    let near = known.iter().map(|known| (distance(&word, &flat(known)), *known));
    let (distance, known) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= (known.len() / 3).clamp(1, 4)).then_some(known)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other
/// (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for row in 1..=left.len() {
        let mut line = vec![row];
        for column in 1..=right.len() {
            let (a, b) = (left[row - 1], right[column - 1]);
            let replaced = above[column - 1] + usize::from(a != b);
            let mut best = replaced.min(above[column] + 1).min(line[column - 1] + 1);
            if row > 1 && column > 1 && a == right[column - 2] && left[row - 2] == b {
                best = best.min(before[column - 2] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut above, line);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let known = ["decision_wait", "policies", "num_traces", "endpoint"];
        assert_eq!(nearest("desicion_wait", &known), Some("decision_wait"));
        assert_eq!(nearest("polices", &known), Some("policies"));
        assert_eq!(nearest("decision-wait", &known), Some("decision_wait"));
        assert_eq!(nearest("endpiont", &known), Some("endpoint"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(nearest("batch", &["decision_wait", "policies"]), None);
        assert_eq!(nearest(&"p".repeat(100), &["policies"]), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
