//! The smallest SNMP agent: answers a get of one object with the number 42. Lengths below 128 only.

const GET: u8 = 0xa0;
const RESPONSE: u8 = 0xa2;
const NULL: [u8; 2] = [0x05, 0x00];
const ANSWER: [u8; 3] = [0x02, 0x01, 42];

/// The answer to a message; `None` when it is not such a get.
pub(crate) fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = question.strip_suffix(&NULL)?.to_vec();
    answer.extend(ANSWER);
    // Message: version, community, PDU; PDU: request id, two numbers, list of bindings; in it one binding.
    let message = 0;
    let pdu = after(question, after(question, message + 2)?)?;
    if *question.get(pdu)? != GET {
        return None;
    }
    let list = after(question, after(question, after(question, pdu + 2)?)?)?;
    for at in [message, pdu, list, list + 2] {
        // The answer's value is one byte longer than the question's.
        let length = answer.get_mut(at + 1).filter(|length| **length < 127)?;
        *length += 1;
    }
    *answer.get_mut(pdu)? = RESPONSE;
    Some(answer)
}

/// Where the element at `at` ends.
fn after(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at + 1).filter(|length| **length < 128)?;
    Some(at + 2 + usize::from(*length))
}
