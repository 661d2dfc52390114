package clickstream.examples;

import java.util.Arrays;
import java.util.Map;
import java.util.TreeMap;

/** Reads flags of the form {@code --name=value}. */
final class Flags {
  private final Map<String, String> values = new TreeMap<>();

  Flags(String[] arguments, String... known) {
    for (String argument : arguments) {
      String[] parts = argument.split("=", 2);
      String name = parts[0].replaceFirst("^--", "");
      if (parts.length < 2 || !Arrays.asList(known).contains(name)) {
        System.err.println(argument + ": the flags are --" + String.join("=..., --", known) + "=...");
        System.exit(2);
      }
      values.put(name, parts[1]);
    }
  }

  String get(String name, String otherwise) {
    return values.getOrDefault(name, otherwise);
  }
}
