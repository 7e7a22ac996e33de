//! Dimensions: numbers, names, and arithmetic on both.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::Name;

/// One dimension of a shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A number known before the model runs.
    Fixed(i64),
    /// A number that has a name (`dim_param`); equal names are equal numbers, but for [placeholders](Dim::same).
    Symbol(Name),
    /// A number that follows from named ones: `2*seq - 1`.
    Expr(Arc<Expr>),
    /// Not known.
    Unknown,
}

/// Arithmetic on names: a sum of products in normal form, so that equal sums are equal values.
///
/// Neither a plain number nor a plain name: these are [`Dim::Fixed`] and [`Dim::Symbol`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr(BTreeMap<Vec<Atom>, i64>);

/// What products are made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Symbol(Name),
    /// Quotient rounded down.
    Quotient(Expr, Expr),
    /// The smallest of at least two.
    Min(Vec<Expr>),
    /// The largest of at least two.
    Max(Vec<Expr>),
}

/// Expressions with more products than this are given up: nobody reads them, and a hostile file could let them grow.
const MAX_TERMS: usize = 24;
/// Quotients, minima and maxima inside of each other are given up beyond this depth.
const MAX_DEPTH: usize = 6;

impl Dim {
    /// The number, where it is known.
    #[must_use]
    pub fn fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether both are surely the same number.
    ///
    /// Exporters write some names, such as `-1` and `?`, for any dimension that is open: these say nothing.
    #[must_use]
    pub fn same(&self, other: &Dim) -> bool {
        self == other && !self.is_open()
    }

    /// Whether nothing at all is known: also true for names that exporters give to every open dimension.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Dim::Unknown => true,
            Dim::Symbol(name) => is_placeholder(name),
            Dim::Fixed(_) | Dim::Expr(_) => false,
        }
    }

    /// Whether the number is surely not negative, given that dimensions are not.
    #[must_use]
    pub fn is_natural(&self) -> bool {
        self.expr().is_some_and(|e| e.is_natural())
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Dim) -> Dim {
        self.with(other, |a, b| a.plus(&b))
    }

    /// The difference.
    #[must_use]
    pub fn minus(&self, other: &Dim) -> Dim {
        self.with(other, |a, b| a.plus(&b.times(&Expr::number(-1))?))
    }

    /// The product.
    #[must_use]
    pub fn times(&self, other: &Dim) -> Dim {
        match (self, other) {
            // Whatever the other one is.
            (Dim::Fixed(0), _) | (_, Dim::Fixed(0)) => Dim::Fixed(0),
            _ => self.with(other, |a, b| a.times(&b)),
        }
    }

    /// The quotient, rounded towards negative infinity; unknown where the divisor may be 0 or negative.
    #[must_use]
    pub fn over(&self, other: &Dim) -> Dim {
        self.with(other, |a, b| a.over(&b))
    }

    /// The quotient, where the division has no remainder whatever the names stand for.
    #[must_use]
    pub fn exactly_over(&self, other: &Dim) -> Option<Dim> {
        Some(self.expr()?.exactly_over(&other.expr()?)?.into())
    }

    /// The smaller one.
    #[must_use]
    pub fn min(&self, other: &Dim) -> Dim {
        self.with(other, |a, b| a.extreme(&b, Ordering::Less))
    }

    /// The larger one.
    #[must_use]
    pub fn max(&self, other: &Dim) -> Dim {
        self.with(other, |a, b| a.extreme(&b, Ordering::Greater))
    }

    /// Whether this is `other` or something smaller that is at least 1: a minimum of the two.
    #[must_use]
    pub fn is_capped_by(&self, other: &Dim) -> bool {
        let (Some(this), Some(other)) = (self.expr(), other.expr()) else { return false };
        let cap = |e: &Expr| *e == other || e.as_number().is_some_and(|n| n >= 1);
        matches!(this.only_term(), Some(([Atom::Min(all)], 1)) if all.contains(&other) && all.iter().all(cap))
    }

    /// Whether this is surely at most `other`.
    #[must_use]
    pub fn at_most(&self, other: &Dim) -> bool {
        other.minus(self).is_natural()
    }

    fn with(&self, other: &Dim, f: impl FnOnce(Expr, Expr) -> Option<Expr>) -> Dim {
        match (self.expr(), other.expr()) {
            (Some(a), Some(b)) => {
                let small = |e: &Expr| e.0.len() <= MAX_TERMS && e.depth() <= MAX_DEPTH;
                f(a, b).filter(small).map_or(Dim::Unknown, Dim::from)
            }
            _ => Dim::Unknown,
        }
    }

    fn expr(&self) -> Option<Expr> {
        match self {
            Dim::Fixed(n) => Some(Expr::number(*n)),
            Dim::Symbol(name) if !is_placeholder(name) => {
                Some(Expr::atom(Atom::Symbol(name.clone())))
            }
            Dim::Expr(expr) => Some(Expr::clone(expr)),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }

    /// A `dim_param` as files have it: an expression where it is written as this program writes one, else a name.
    #[must_use]
    pub fn named(text: &str) -> Dim {
        if !text.contains(['+', '-', '*', '/', '(']) {
            return Dim::Symbol(text.into());
        }
        match Dim::parse(text) {
            // Any other spelling stays what it is, since names of the interface are not changed.
            Some(dim @ Dim::Expr(_)) if dim.to_string() == text => dim,
            _ => Dim::Symbol(text.into()),
        }
    }

    /// Reads sums, differences, products, quotients (`//`), `min(…)` and `max(…)` of names and whole numbers.
    #[must_use]
    pub fn parse(text: &str) -> Option<Dim> {
        let mut reader = Reader { text, depth: 0 };
        let expr = reader.sum()?;
        reader.text.trim().is_empty().then(|| expr.into())
    }

    /// The names that the dimension depends on, each once.
    #[must_use]
    pub fn symbols(&self) -> Vec<Name> {
        let mut names = Vec::new();
        match self {
            Dim::Symbol(name) => names.push(name.clone()),
            Dim::Expr(expr) => expr.symbols(&mut names),
            Dim::Fixed(_) | Dim::Unknown => {}
        }
        names
    }

    /// The dimension once some names are numbers.
    ///
    /// A name that itself reads as an expression, such as `past + 1` in whatever spelling, follows from its parts.
    #[must_use]
    pub fn replace_symbols(&self, number: &dyn Fn(&str) -> Option<i64>) -> Dim {
        let replaced = match self {
            Dim::Symbol(name) => match number(name) {
                Some(n) => return Dim::Fixed(n),
                None => match Dim::parse(name) {
                    Some(Dim::Expr(expr)) => expr.replace_symbols(number),
                    _ => return self.clone(),
                },
            },
            Dim::Expr(expr) => expr.replace_symbols(number),
            Dim::Fixed(_) | Dim::Unknown => return self.clone(),
        };
        match (replaced.map(Dim::from), self) {
            (Some(Dim::Fixed(n)), _) => Dim::Fixed(n),
            (Some(open), Dim::Expr(_)) => open,
            // The spelling of a name stays while its number is open.
            _ => self.clone(),
        }
    }
}

/// Names that exporters give to all dimensions that are open.
fn is_placeholder(name: &str) -> bool {
    name == "?" || name == "*" || name.eq_ignore_ascii_case("none") || name.parse::<i64>().is_ok()
}

impl From<i64> for Dim {
    fn from(n: i64) -> Self {
        Dim::Fixed(n)
    }
}

impl From<Expr> for Dim {
    fn from(expr: Expr) -> Self {
        if let Some(n) = expr.as_number() {
            return Dim::Fixed(n);
        }
        if let Some((factors, 1)) = expr.only_term()
            && let [Atom::Symbol(name)] = factors
        {
            return Dim::Symbol(name.clone());
        }
        Dim::Expr(Arc::new(expr))
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Expr(expr) => write!(f, "{expr}"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

impl Expr {
    fn number(n: i64) -> Expr {
        Expr(if n == 0 { BTreeMap::new() } else { [(Vec::new(), n)].into() })
    }

    fn atom(atom: Atom) -> Expr {
        Expr([(vec![atom], 1)].into())
    }

    fn as_number(&self) -> Option<i64> {
        match self.only_term() {
            Some(([], n)) => Some(n),
            Some(_) => None,
            None => self.0.is_empty().then_some(0),
        }
    }

    /// Factors and coefficient, when there is just one product.
    fn only_term(&self) -> Option<(&[Atom], i64)> {
        let (factors, &n) = self.0.first_key_value()?;
        (self.0.len() == 1).then_some((factors, n))
    }

    fn plus(&self, other: &Expr) -> Option<Expr> {
        let mut sum = self.0.clone();
        for (factors, &n) in &other.0 {
            add_term(&mut sum, factors.clone(), n)?;
        }
        Some(Expr(sum))
    }

    fn times(&self, other: &Expr) -> Option<Expr> {
        if self.0.len() * other.0.len() > MAX_TERMS * MAX_TERMS {
            return None;
        }
        let mut product = BTreeMap::new();
        for (a, &m) in &self.0 {
            for (b, &n) in &other.0 {
                let mut factors: Vec<Atom> = a.iter().chain(b).cloned().collect();
                if factors.len() > MAX_TERMS {
                    return None;
                }
                factors.sort();
                add_term(&mut product, factors, m.checked_mul(n)?)?;
            }
        }
        Some(Expr(product))
    }

    fn over(&self, other: &Expr) -> Option<Expr> {
        if let Some(quotient) = self.exactly_over(other) {
            return Some(quotient);
        }
        // What may be 0 has no quotient.
        if !other.plus(&Expr::number(-1))?.is_natural() {
            return None;
        }
        match (self.as_number(), other.as_number()) {
            (Some(a), Some(b)) => a.checked_div_euclid(b).map(Expr::number),
            // (k·b + r) // b = k + r // b: whole multiples of a number leave the quotient.
            (None, Some(b)) => {
                let (mut whole, mut rest) = (BTreeMap::new(), BTreeMap::new());
                for (factors, &n) in &self.0 {
                    add_term(&mut whole, factors.clone(), n.div_euclid(b))?;
                    add_term(&mut rest, factors.clone(), n.rem_euclid(b))?;
                }
                let rest = Expr(rest);
                match rest.as_number() {
                    Some(_) => Some(Expr(whole)),
                    None => Expr(whole).plus(&Expr::atom(Atom::Quotient(rest, other.clone()))),
                }
            }
            _ => Some(Expr::atom(Atom::Quotient(self.clone(), other.clone()))),
        }
    }

    /// The quotient by a single product that divides every product of this sum.
    ///
    /// A name may be 0, and then there is no quotient; but neither is there a valid run that asks for it.
    fn exactly_over(&self, other: &Expr) -> Option<Expr> {
        if self == other && !other.0.is_empty() {
            return Some(Expr::number(1));
        }
        let (divisor, d) = other.only_term()?;
        let mut quotient = BTreeMap::new();
        for (factors, &n) in &self.0 {
            let mut left = factors.clone();
            for atom in divisor {
                left.remove(left.iter().position(|a| a == atom)?);
            }
            if n.checked_rem(d)? != 0 {
                return None;
            }
            add_term(&mut quotient, left, n.checked_div(d)?)?;
        }
        Some(Expr(quotient))
    }

    /// The smaller or the larger of two.
    fn extreme(&self, other: &Expr, wanted: Ordering) -> Option<Expr> {
        let difference = self.plus(&other.times(&Expr::number(-1))?)?;
        let self_is_larger = difference.is_natural();
        let other_is_larger = difference.times(&Expr::number(-1))?.is_natural();
        if self_is_larger || other_is_larger {
            let takes_self = self_is_larger == (wanted == Ordering::Greater);
            return Some(if takes_self { self.clone() } else { other.clone() });
        }
        let mut all: Vec<Expr> = Vec::new();
        for side in [self, other] {
            match (side.only_term(), wanted) {
                (Some(([Atom::Min(inner)], 1)), Ordering::Less)
                | (Some(([Atom::Max(inner)], 1)), Ordering::Greater) => {
                    all.extend_from_slice(inner);
                }
                _ => all.push(side.clone()),
            }
        }
        all.sort();
        all.dedup();
        Some(match (all.len(), wanted) {
            (1, _) => all.swap_remove(0),
            (_, Ordering::Less) => Expr::atom(Atom::Min(all)),
            _ => Expr::atom(Atom::Max(all)),
        })
    }

    fn is_natural(&self) -> bool {
        self.0.iter().all(|(factors, &n)| n >= 0 && factors.iter().all(Atom::is_natural))
    }

    fn depth(&self) -> usize {
        self.0.keys().flatten().map(Atom::depth).max().unwrap_or(0)
    }

    fn symbols(&self, names: &mut Vec<Name>) {
        for atom in self.0.keys().flatten() {
            match atom {
                Atom::Symbol(name) if !names.contains(name) => names.push(name.clone()),
                Atom::Symbol(_) => {}
                Atom::Quotient(a, b) => {
                    a.symbols(names);
                    b.symbols(names);
                }
                Atom::Min(all) | Atom::Max(all) => all.iter().for_each(|e| e.symbols(names)),
            }
        }
    }

    fn replace_symbols(&self, number: &dyn Fn(&str) -> Option<i64>) -> Option<Expr> {
        let mut sum = Expr::number(0);
        for (factors, &n) in &self.0 {
            let mut product = Expr::number(n);
            for atom in factors {
                product = product.times(&atom.replace_symbols(number)?)?;
            }
            sum = sum.plus(&product)?;
        }
        Some(sum)
    }
}

/// Adds a product to a sum; none on overflow.
fn add_term(sum: &mut BTreeMap<Vec<Atom>, i64>, factors: Vec<Atom>, n: i64) -> Option<()> {
    let total = sum.get(&factors).copied().unwrap_or(0).checked_add(n)?;
    if total == 0 {
        sum.remove(&factors);
    } else {
        sum.insert(factors, total);
    }
    Some(())
}

impl Atom {
    fn is_natural(&self) -> bool {
        match self {
            Atom::Symbol(_) => true,
            // Divisors are positive.
            Atom::Quotient(a, _) => a.is_natural(),
            Atom::Min(all) => all.iter().all(Expr::is_natural),
            Atom::Max(all) => all.iter().any(Expr::is_natural),
        }
    }

    fn depth(&self) -> usize {
        1 + match self {
            Atom::Symbol(_) => 0,
            Atom::Quotient(a, b) => a.depth().max(b.depth()),
            Atom::Min(all) | Atom::Max(all) => all.iter().map(Expr::depth).max().unwrap_or(0),
        }
    }

    fn replace_symbols(&self, number: &dyn Fn(&str) -> Option<i64>) -> Option<Expr> {
        let all_of = |all: &[Expr], wanted| {
            let mut all = all.iter().map(|e| e.replace_symbols(number));
            let first = all.next()??;
            all.try_fold(first, |so_far, next| so_far.extreme(&next?, wanted))
        };
        match self {
            Atom::Symbol(name) => {
                Some(number(name).map_or_else(|| Expr::atom(self.clone()), Expr::number))
            }
            Atom::Quotient(a, b) => a.replace_symbols(number)?.over(&b.replace_symbols(number)?),
            Atom::Min(all) => all_of(all, Ordering::Less),
            Atom::Max(all) => all_of(all, Ordering::Greater),
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names first, the plain number last; a sum starts with what is positive if anything is.
        let mut terms: Vec<(&Vec<Atom>, i64)> = self.0.iter().map(|(t, &n)| (t, n)).collect();
        terms.sort_by_key(|(factors, n)| (factors.is_empty(), *n < 0));
        for (i, (factors, n)) in terms.into_iter().enumerate() {
            match (i, n < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let n = n.unsigned_abs();
            if factors.is_empty() || n != 1 {
                write!(f, "{n}")?;
            }
            for (j, atom) in factors.iter().enumerate() {
                let times = if j > 0 || n != 1 { "*" } else { "" };
                write!(f, "{times}{atom}")?;
            }
        }
        if self.0.is_empty() { f.write_str("0") } else { Ok(()) }
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, name: &str, all: &[Expr]| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            write!(f, "{name}({})", all.join(", "))
        };
        match self {
            Atom::Symbol(name) => f.write_str(name),
            Atom::Quotient(a, b) => {
                let part = |e: &Expr| {
                    if e.0.len() > 1 { format!("({e})") } else { e.to_string() }
                };
                // A product as divisor needs its own brackets, since products are read from the left.
                let divisor =
                    if b.only_term().is_some_and(|(f, n)| f.len() + usize::from(n != 1) > 1) {
                        format!("({b})")
                    } else {
                        part(b)
                    };
                write!(f, "({}//{divisor})", part(a))
            }
            Atom::Min(all) => list(f, "min", all),
            Atom::Max(all) => list(f, "max", all),
        }
    }
}

/// What is left to read of an expression.
struct Reader<'a> {
    text: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn takes(&mut self, word: &str) -> bool {
        match self.text.trim_start().strip_prefix(word) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn sum(&mut self) -> Option<Expr> {
        let negative = self.takes("-");
        let mut sum = self.product()?;
        if negative {
            sum = sum.times(&Expr::number(-1))?;
        }
        loop {
            if self.takes("+") {
                sum = sum.plus(&self.product()?)?;
            } else if self.takes("-") {
                sum = sum.plus(&self.product()?.times(&Expr::number(-1))?)?;
            } else {
                return (sum.0.len() <= MAX_TERMS).then_some(sum);
            }
        }
    }

    fn product(&mut self) -> Option<Expr> {
        let mut product = self.factor()?;
        loop {
            if self.takes("*") {
                product = product.times(&self.factor()?)?;
            } else if self.takes("//") {
                product = product.over(&self.factor()?)?;
            } else {
                return Some(product);
            }
        }
    }

    fn factor(&mut self) -> Option<Expr> {
        if self.depth > 2 * MAX_DEPTH {
            return None;
        }
        if self.takes("(") {
            self.depth += 1;
            let inner = self.sum()?;
            self.depth -= 1;
            return self.takes(")").then_some(inner);
        }
        let word = self.word()?;
        if let Ok(n) = word.parse() {
            return Some(Expr::number(n));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let wanted = match word {
            "min" | "Min" => Some(Ordering::Less),
            "max" | "Max" => Some(Ordering::Greater),
            _ => None,
        };
        match wanted {
            Some(wanted) if self.takes("(") => {
                self.depth += 1;
                let mut so_far = self.sum()?;
                while self.takes(",") {
                    so_far = so_far.extreme(&self.sum()?, wanted)?;
                }
                self.depth -= 1;
                self.takes(")").then_some(so_far)
            }
            _ => Some(Expr::atom(Atom::Symbol(word.into()))),
        }
    }

    /// A name or a number: letters, digits, `_` and `.`.
    fn word(&mut self) -> Option<&'a str> {
        let text = self.text.trim_start();
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.text = rest;
        (!word.is_empty()).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dim(text: &str) -> Dim {
        Dim::parse(text).unwrap_or_else(|| panic!("{text:?} does not read"))
    }

    #[test]
    fn equal_sums_are_equal_values() {
        for (a, b) in [
            ("seq + 1 + seq", "2*seq + 1"),
            ("(a + b)*(a - b)", "a*a - b*b"),
            ("seq*768//768", "seq"),
            ("(6*seq + 4)//3", "2*seq + 1 + 1//3"),
            ("batch*12*seq//(batch*12)", "seq"),
            ("min(512, seq, 512)", "min(seq, 512)"),
            ("max(0, seq)", "seq"),
            ("min(seq, seq + 3)", "seq"),
            ("max(seq - 1, seq + 1)", "seq + 1"),
            ("-seq + seq", "0"),
        ] {
            assert_eq!(dim(a), dim(b), "{a} and {b}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in [
            "2*seq - 1",
            "batch*seq",
            "past + seq",
            "((seq + 1)//2)",
            "(seq//(2*heads + 1))",
            "3*((seq*seq)//(1 + 2*seq))",
            "min(seq, 512)",
            "-seq + 3",
            "a*max(a - b, 0)",
        ] {
            let text = dim(text).to_string();
            assert_eq!(dim(&text).to_string(), text);
            assert!(matches!(Dim::named(&text), Dim::Expr(_)), "{text}");
        }
        assert_eq!(dim("1 - seq").to_string(), "-seq + 1");
    }

    #[test]
    fn other_spellings_and_names_stay_as_they_are() {
        for text in
            ["seq+1", "1 + seq", "-1", "DynamicDimension.0", "input ids", "a-b", "2", "((", ""]
        {
            assert_eq!(Dim::named(text), Dim::Symbol(text.into()));
        }
    }

    #[test]
    fn placeholders_are_not_the_same() {
        for name in ["-1", "?", "None", "0"] {
            let open = Dim::Symbol(name.into());
            assert!(!open.same(&open), "{name}");
            assert_eq!(open.plus(&Dim::Fixed(1)), Dim::Unknown);
        }
    }

    #[test]
    fn numbers_of_names_are_put_in() {
        let seven = |name: &str| (name == "past").then_some(7);
        for (text, becomes) in [
            ("past + 1", "8"),
            ("past+1", "8"),
            ("past*seq", "7*seq"),
            ("((past + seq)//2)", "3 + ((seq + 1)//2)"),
            ("seq+past", "seq+past"),
            ("max(0, past - seq)", "max(0, 7 - seq)"),
        ] {
            let replaced = Dim::named(text).replace_symbols(&seven);
            let wanted = Dim::parse(becomes).filter(|_| text != becomes);
            assert_eq!(replaced, wanted.unwrap_or(Dim::Symbol(text.into())), "{text}");
        }
    }

    #[test]
    fn what_may_be_zero_divides_nothing() {
        assert_eq!(dim("seq").over(&dim("heads")), Dim::Unknown);
        assert_eq!(dim("seq").over(&Dim::Fixed(0)), Dim::Unknown);
        assert_eq!(dim("seq").over(&dim("heads + 1")).to_string(), "(seq//(heads + 1))");
    }

    #[test]
    fn overflow_and_growth_end_as_unknown() {
        assert_eq!(Dim::Fixed(i64::MAX).plus(&Dim::Fixed(1)), Dim::Unknown);
        assert_eq!(dim("seq").times(&Dim::Fixed(i64::MAX)).times(&Dim::Fixed(2)), Dim::Unknown);
        let mut sum = Dim::Fixed(0);
        for i in 0..=MAX_TERMS {
            sum = sum.plus(&Dim::Symbol(format!("s{i}").as_str().into()));
        }
        assert_eq!(sum, Dim::Unknown);
        let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert_eq!(Dim::parse(&deep), None);
    }

    /// Text of a random expression in `a` and `b`, and its number for given `a` and `b`.
    fn expressions() -> impl Strategy<Value = (String, fn(i64, i64) -> i64)> {
        // Each form as text and as arithmetic of the machine: what the normal form must agree with.
        prop::sample::select(vec![
            (
                "(a + 3)*(b - 2) - a*b".to_owned(),
                (|a, b| (a + 3) * (b - 2) - a * b) as fn(i64, i64) -> i64,
            ),
            ("(5*a + 7)//3 - min(a, b)".to_owned(), |a, b| (5 * a + 7).div_euclid(3) - a.min(b)),
            ("max(2*a - b, b - 2*a, 3)".to_owned(), |a, b| (2 * a - b).max(b - 2 * a).max(3)),
            ("(a*b + a)//(b + 1) + min(a - 4, 5, b)".to_owned(), |a, b| {
                (a * b + a).div_euclid(b + 1) + (a - 4).min(5).min(b)
            }),
            ("max(0, min(a - 1, b) - 2)".to_owned(), |a, b| 0.max((a - 1).min(b) - 2)),
            ("(0 - 7*a - 5)//4".to_owned(), |a, _| (-7 * a - 5).div_euclid(4)),
        ])
    }

    proptest! {
        #[test]
        fn the_normal_form_computes_the_same((text, value) in expressions(), a in 0i64..40, b in 0i64..40) {
            let parsed = dim(&text);
            let numbers = |name: &str| Some(if name == "a" { a } else { b });
            prop_assert_eq!(parsed.replace_symbols(&numbers), Dim::Fixed(value(a, b)));
            let only_a = |name: &str| (name == "a").then_some(a);
            let both = parsed.replace_symbols(&only_a).replace_symbols(&numbers);
            prop_assert_eq!(both, Dim::Fixed(value(a, b)));
            prop_assert_eq!(dim(&parsed.to_string()), parsed);
        }
    }
}
