import { describe, expect, it } from "vitest";
import type { ModelFacts } from "../../src/api/types";
import { factsInWords, modelsOf, providersOf } from "../../src/model/models";

const nothing = { name: "", context: null, output: null, input: null, variants: null, price: null };
const models: ModelFacts[] = [
  {
    ...nothing,
    provider: "a",
    model: "one",
    context: 1_000_000,
    input: ["text", "image"],
    price: { input: 3, output: 15 },
  },
  { ...nothing, provider: "a", model: "two", context: 200_000 },
  { ...nothing, provider: "b", model: "one" },
];

describe("the choice of a model", () => {
  it("offers each provider once, and the models of the chosen one", () => {
    expect(providersOf(models)).toEqual(["a", "b"]);
    expect(modelsOf(models, "a")).toEqual(["one", "two"]);
    expect(modelsOf(models, "")).toEqual([]);
  });

  it("says what is known of a model, and nothing of what is not", () => {
    expect(models.map(factsInWords)).toEqual([
      "1M tokens of context · text, image · $3 in, $15 out per million tokens",
      "200k tokens of context",
      "",
    ]);
  });
});
