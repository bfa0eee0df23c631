//! Tests of the whole: the direction of dependencies, and later processes, links and a browser.
