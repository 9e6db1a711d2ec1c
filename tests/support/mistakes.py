"""Texts that are no terms of the calculus, each with what must be said and where.

The place of a mistake is marked in its text by ``@``, which is taken out before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A text with a mark before the first character that the message must point at."""

    text: str
    message: str
    module: bool = False

    def place(self) -> tuple[str, str]:
        """The text without its mark, and line:column of the mark."""
        before, after = self.text.split("@")
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        return before + after, f"{line}:{column}"


MISTAKES = [
    # ---------------------------------------------------------------------------------- reading
    Mistake("@", "unexpected the end"),
    Mistake("do { x <- flip(1/2); return x@", "unexpected the end"),
    Mistake("1 + @* 2", "unexpected '*'"),
    Mistake("flip(1/2) @? 1", "unexpected character '?'"),
    Mistake("(1, 2@]", "unexpected ']'"),
    Mistake("a < b @< c", "unexpected '<'"),
    Mistake("let @if = 1 in 2", "'if' is a keyword, not a name"),
    Mistake("let @score = 1 in 2", "'score' is a keyword, not a name"),
    Mistake("fun (@inl : Bool) -> 1", "'inl' is a keyword, not a name"),
    Mistake("do { x <- flip(1/2); @}", "unexpected '}'"),
    Mistake(
        "do { @x + 1 <- flip(1/2); return x }", "only names and tuples of names stand before <-"
    ),
    Mistake("@1/0", "1/0 divides by zero"),
    Mistake("(1 : @Fin 0)", "Fin needs a whole number of at least 1, not 0"),
    Mistake("@min(1)", "the function min takes 2 arguments, not 1"),
    Mistake("@normal(0)", "the distribution normal takes 2 arguments, not 1"),
    Mistake("@flip(1/2, 1/2)", "the distribution flip takes 1 arguments, not 2"),
    Mistake("case x of { inl a -> 1 @}", "unexpected '}'"),
    Mistake("if true then 1@", "unexpected the end"),
    Mistake("@def f : Nat = 1", "the last definition of a file must be main", module=True),
    Mistake(
        "def main : Nat = 1\n@def f : Nat = 1", "main must be the last definition", module=True
    ),
    Mistake(
        "def f : Nat = 1\n@def f : Nat = 2\ndef main : Nat = f", "'f' is defined twice", module=True
    ),
    # ------------------------------------------------------------------------------------ names
    Mistake("return @rian", "unknown variable 'rian'"),
    Mistake("do { rain <- flip(1/2);\n  return @rian }", "did you mean 'rain'"),
    Mistake("do { x <- flip(1/2); return (fun (y : Bool) -> x) @y }", "unknown variable 'y'"),
    Mistake("let @(x, x) = (1, 2) in x", "'x' is bound twice in one pattern"),
    Mistake("(fun (n : Nat) -> @f n) 1", "unknown variable 'f'"),
    Mistake("def main : Nat = @later\n", "unknown variable 'later'", module=True),
    # ---------------------------------------------------------------------------------- values
    Mistake("not @1", "expected Bool, found Fin 2"),
    Mistake("1 + @true", "expected Real, found Bool"),
    Mistake("if @1 then 2 else 3", "expected Bool, found Fin 2"),
    Mistake("if true then 1 else @false", "this is Bool, but the other branch is Fin 2"),
    Mistake("[1, 2, @true]", "this is Bool, but the items before it are Fin 3"),
    Mistake("@true :: [1]", "this is Bool, but the items after it are Fin 2"),
    Mistake("1 == @true", "this is Bool, but the left side is Fin 2"),
    Mistake("@(fun (x : Bool) -> x) == (fun (x : Bool) -> x)", "cannot be compared"),
    Mistake("@1 2", "only functions can be applied, not Fin 2"),
    Mistake("(fun (x : Bool) -> x) @1", "expected Bool, found Fin 2"),
    Mistake("(fun (n : Nat) -> n) @1/2", "not every Prob is a Nat"),
    Mistake("let @(a, b) = (1, 2, 3) in a", "the pattern has 2 parts, but the value is"),
    Mistake("case @true of { inl x -> 1; inr y -> 2 }", "case needs a sum, found Bool"),
    Mistake("fold x in @3, a = 0 { a }", "expected a list, found Fin 4"),
    Mistake("sqrt(@-1)", "expected Weight, found Real"),
    Mistake("log(@-1)", "expected Weight, found Real"),
    Mistake("pred(@1/2)", "expected Nat, found Prob"),
    Mistake("3 % (@1 + 1)", "the right side of % must be a whole number, written out"),
    Mistake("(@3 : Fin 3)", "expected Fin 3, found Fin 4"),
    Mistake("((@1, true) : Bool * Bool)", "expected Bool, found Fin 2"),
    Mistake("fold x in [true], a = true { @1 }", "this is Fin 2, but the state is Bool"),
    # -------------------------------------------------------------------------------- measures
    Mistake("do { flip(1/2); @3 }", "expected a measure, found Fin 4"),
    Mistake("do { x <- @3; return x }", "write `return` before a plain value"),
    Mistake("flip(@2)", "expected Prob, found Fin 3"),
    Mistake("flip(@-1/2)", "expected Prob, found Real"),
    Mistake("normal(0, @-1)", "expected Weight, found Real"),
    Mistake("normal(@true, 1)", "expected Real, found Bool"),
    Mistake("categorical(1, @-2)", "expected Weight, found Real"),
    Mistake("let n = 3 in discrete(@n)", "the first argument of discrete must be a whole number"),
    Mistake("binomial(@1/2, 1/2)", "expected Nat, found Prob"),
    Mistake("poisson(@-1)", "expected Weight, found Real"),
    Mistake("geometric(@3)", "expected Prob, found Fin 4"),
    Mistake("score @-1", "expected Weight, found Real"),
    Mistake("score @true", "expected Weight, found Bool"),
    Mistake("do { x <- flip(1/2); return @x + 1 }", "expected Real, found Bool"),
    Mistake("if @flip(1/2) then 1 else 2", "bind it with `x <- ...` in a do block"),
    Mistake("(@score 1/2 : P Unit)", "a P must not score or observe"),
    Mistake("(do { @score 1/2; return 1 } : P (Fin 2))", "a P must not score or observe"),
    Mistake("(@score 2 : S Unit)", "an S may score by a Prob only"),
    Mistake("(@return true : D Bool)", "only a primitive distribution has a density"),
    Mistake(
        "observe true from @do { x <- flip(1/2); return x }",
        "observe needs a distribution with a density",
    ),
    Mistake("observe @1/2 from flip(1/2)", "expected Bool, found Prob"),
    Mistake("observe @3 from discrete(3)", "expected Fin 3, found Fin 4"),
    Mistake("@fix f (n : Nat) : P Nat = f n", "a recursive function cannot return P Nat"),
    Mistake("@fix f (n : Nat) : Nat = f n", "a recursive function cannot return Nat"),
    Mistake("fix f (n : Nat) : M Nat = return @true", "expected Nat, found Bool"),
    Mistake("fix f (n : Nat) : M Nat = f @true", "expected Nat, found Bool"),
    Mistake("memo (@fun (x : Bool) -> x)", "memo needs a function to P, found Bool -> Bool"),
    Mistake("memo (@fun (x : Bool) -> score 1/2)", "it must have mass one"),
    Mistake("memo (@fun (f : Bool -> Bool) -> flip(1/2))", "memo cannot compare arguments of"),
    Mistake("normalize @true", "expected a measure, found Bool"),
    Mistake("loop x in [true], z = true { @return 1 }", "this is Fin 2, but the state is Bool"),
    Mistake("loop x in [true], z = true { @z }", "expected a measure, found Bool"),
    Mistake(
        "def f : P Bool = flip(1/2)\ndef main : P Nat = @f",
        "expected P Nat, found P Bool",
        module=True,
    ),
    Mistake(
        "def f (n : Nat) : Prob = @n\ndef main : P Bool = flip(f 1)",
        "expected Prob, found Nat",
        module=True,
    ),
]
