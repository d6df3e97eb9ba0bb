package sums;

import java.util.Arrays;

final class Sum {
    private Sum() {}

    /** Return the sum of whole numbers with pluses between them. */
    static long of(String terms) {
        return Arrays.stream(terms.split("\\+")).mapToLong(Long::parseLong).sum();
    }
}
