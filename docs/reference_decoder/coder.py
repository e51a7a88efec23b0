"""The coder: 32 lanes of rANS. format.md, section 4."""

from errors import Refused, expect

LANES = 32
REST = 2**16


class Lanes:
    """The states of a chunk, which run on from plane to plane, and its words."""

    def __init__(self, states, words):
        self.states, self.words, self.next = list(states), words, 0

    def refill(self, x):
        """One word is enough: before it x >= 1, so after it x >= 2^16."""
        if x >= REST:
            return x
        if self.next == len(self.words):
            raise Refused("truncated", f"a word is read past the end, after {self.next} words")
        self.next += 1
        return x << 16 | self.words[self.next - 1]

    def raw_bits(self, lane, count):
        x = self.states[lane]
        self.states[lane] = self.refill(x >> count)
        return x & (1 << count) - 1

    def coded_plane(self, count, find, finish):
        """`find(i, slot)` gives (start, freq, raw bits, symbol) of scalar i, `finish(symbol, raw)` its code."""
        codes = []
        for row in range(0, count, LANES):
            symbols = []
            for lane in range(min(LANES, count - row)):  # (a)
                x = self.states[lane]
                slot = x & 65535
                start, freq, bits, symbol = find(row + lane, slot)
                self.states[lane] = self.refill(freq * (x >> 16) + slot - start)
                symbols.append((symbol, bits))
            for lane, (symbol, bits) in enumerate(symbols):  # (b)
                codes.append(finish(symbol, self.raw_bits(lane, bits) if bits else 0))
        return codes

    def raw_plane(self, count, width):
        return [self.raw_bits(i % LANES, width) for i in range(count)]

    def end(self):
        left = len(self.words) - self.next
        expect(left == 0, "every word must be read by the last plane", left)
        for x in self.states:
            expect(x == REST, "lane states must end at 2^16", x)
