// What a message says to a person: one description for each shape that is known.
//
// A description is {as, ...}:
//   user       text               what a person asked
//   text       text, thought      a piece of the worker's speech; pieces that follow are joined
//   tool       key, title, input, output, status, failed, more
//                                 a tool at work; descriptions with one key become one card
//   ask        title, text, choices
//                                 the worker asks its client; a choice holds the result to send
//   request    title, value       a request of ours that is no prompt
//   note       title, value       a notification
//   quiet                         said already elsewhere; shown in the raw view only
//   json       value              any other JSON
//   output                        no JSON: shown as it is

import { compact } from "./text.js";

const object = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** A message that was sent to the worker. */
export function describeSent(message) {
  if (!object(message)) return { as: message === undefined ? "output" : "json", value: message };
  const { method, params } = message;
  if (method === "prompt" && params?.user_input !== undefined) {
    return { as: "user", text: contentText(params.user_input) };
  }
  if (method === "session/prompt" && Array.isArray(params?.prompt)) {
    return { as: "user", text: contentText(params.prompt) };
  }
  if (typeof method === "string") return { as: "request", title: method, value: params };
  if ("id" in message) {
    return { as: "request", title: "answer", value: message.error ?? message.result };
  }
  return { as: "json", value: message };
}

/** A message from the worker that is no answer. */
export function describeLine(message) {
  if (message === undefined) return { as: "output" };
  if (!object(message)) return { as: "json", value: message };
  const { method, params } = message;
  const asks = "id" in message && message.id !== null;
  if (method === "event" && typeof params?.type === "string") return wireEvent(params);
  if (method === "session/update" && object(params?.update)) return acpUpdate(params.update);
  if (method === "request" && typeof params?.type === "string" && asks) return wireRequest(params);
  if (method === "session/request_permission" && asks) return acpPermission(params);
  if (typeof method === "string") {
    if (asks) return { as: "ask", title: method, value: params };
    return { as: "note", title: method, value: params, text: logText(params) };
  }
  return { as: "json", value: message };
}

/** The text of a prompt or of a message's content: a string, or parts of several types. */
export function contentText(content) {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? content : [content];
  return parts
    .map((part) => {
      if (typeof part === "string") return part;
      if (typeof part?.text === "string") return part.text;
      if (typeof part?.think === "string") return part.think;
      if (object(part?.content)) return contentText(part.content);
      return `[${part?.type ?? "?"}] ${compact(part)}`;
    })
    .join("\n");
}

// -- wire mode: {"method": "event", "params": {"type": …, "payload": …}} -----------------------

function wireEvent({ type, payload }) {
  const body = object(payload) ? payload : {};
  switch (type) {
    case "TurnBegin":
      return { as: "quiet", echo: body.user_input };
    case "TurnEnd":
    case "StepBegin":
      return { as: "quiet" };
    case "ContentPart":
      if (typeof body.text === "string") return { as: "text", text: body.text };
      if (typeof body.think === "string") return { as: "text", text: body.think, thought: true };
      return { as: "note", title: `content: ${body.type ?? "?"}`, value: payload };
    case "ToolCall":
      return {
        as: "tool",
        key: body.id,
        title: body.function?.name ?? "tool",
        input: body.function?.arguments,
        status: "running",
      };
    case "ToolCallPart":
      return { as: "tool", key: null, more: body.arguments_part ?? "" };
    case "ToolResult": {
      const value = body.return_value ?? body.result ?? {};
      const failed = value.is_error === true || "error" in value;
      const output = [value.message, contentText(value.output ?? "")].filter(Boolean).join("\n");
      return { as: "tool", key: body.tool_call_id, output, failed, status: failed ? "failed" : "done" };
    }
    default:
      return { as: "note", title: type, value: payload };
  }
}

function wireRequest({ type, payload }) {
  const choices =
    type === "ApprovalRequest"
      ? [
          ["approve", "Approve"],
          ["approve_for_session", "Approve for the session"],
          ["reject", "Reject"],
        ].map(([response, label]) => ({ label, result: { request_id: payload?.id, response } }))
      : [];
  const title = type === "ApprovalRequest" ? `Approval: ${payload?.sender ?? "?"}` : type;
  return { as: "ask", title, text: payload?.description, value: payload, choices };
}

// -- Agent Client Protocol: {"method": "session/update", "params": {"update": …}} --------------

function acpUpdate(update) {
  switch (update.sessionUpdate) {
    case "agent_message_chunk":
      return { as: "text", text: contentText(update.content) };
    case "agent_thought_chunk":
      return { as: "text", text: contentText(update.content), thought: true };
    case "user_message_chunk":
      return { as: "quiet", echo: contentText(update.content) };
    case "tool_call":
    case "tool_call_update": {
      const status = update.status ?? (update.sessionUpdate === "tool_call" ? "pending" : undefined);
      return {
        as: "tool",
        key: update.toolCallId,
        title: update.title ?? (update.sessionUpdate === "tool_call" ? update.kind : undefined),
        input: update.rawInput === undefined ? undefined : JSON.stringify(update.rawInput),
        output: Array.isArray(update.content) ? contentText(update.content) : undefined,
        failed: status === "failed" ? true : undefined,
        status: status === "completed" ? "done" : status?.replace("in_progress", "running"),
      };
    }
    case "plan": {
      const marks = { completed: "✓", in_progress: "▸", pending: "·" };
      const text = (update.entries ?? [])
        .map((entry) => `${marks[entry.status] ?? "·"} ${entry.content}`)
        .join("\n");
      return { as: "note", title: "plan", text, value: update };
    }
    default:
      return { as: "note", title: update.sessionUpdate ?? "session/update", value: update };
  }
}

function acpPermission(params) {
  const options = Array.isArray(params?.options) ? params.options : [];
  return {
    as: "ask",
    title: `Permission: ${params?.toolCall?.title ?? "?"}`,
    value: params,
    choices: options.map((option) => ({
      label: option.name ?? option.optionId,
      result: { outcome: { outcome: "selected", optionId: option.optionId } },
    })),
  };
}

// -- MCP, LSP and the rest of JSON-RPC ---------------------------------------------------------

/** The text of a log notification (`notifications/message`, `window/logMessage`). */
function logText(params) {
  if (typeof params?.message === "string") return params.message;
  if (typeof params?.data === "string") return params.data;
  return undefined;
}
